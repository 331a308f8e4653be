"""Errors in decibels: one meaning of SQNR and PSNR, for searches, gates and reports alike."""

import math

EXACT_DB = 200.0  # reported where there is no error, whose ratio is infinite


def decibels(error: float) -> float:
    """The decibels of an error that is relative to the signal: SQNR and PSNR both.

    `error` is a ratio of amplitudes, 0.01 for 40 dB: of L2 norms for SQNR, of the RMS error to the
    peak for PSNR. No error is EXACT_DB, which nothing is above; an infinite one is -inf dB.
    """
    return EXACT_DB if error == 0 else min(-20 * math.log10(error), EXACT_DB)
