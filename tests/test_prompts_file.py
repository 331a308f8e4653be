"""One rule for files of prompts, wherever one is given."""

import prompts_found
import pytest
from prompts_found import FILES

from quantization.calibration import DEMO_PROMPTS_FILE, PROMPTS_FILE
from quantization.cli import parser as quantization_parser
from quantization.cli import prompts_of
from runtimes.bundle.manifest import Model
from runtimes.cli import parser as runtimes_parser
from runtimes.cli import prompts_from
from runtimes.errors import UsageError
from runtimes.prompts import check_text, read_prompts
from validation.quality.prompts import prompts_for

MODEL = Model("somebody/model", "r", "somebody/prior", "r", "", "")


def by_runtimes(path):
    return prompts_from(runtimes_parser().parse_args(["b", "--prompts-file", str(path)]))


def by_quantization(path):
    args = quantization_parser().parse_args(["b", "o", "--calibration", str(path)])
    return prompts_of(args, None)


def by_validation(path):
    return list(prompts_for(MODEL, path, None).texts)


READERS = {"runtimes": by_runtimes, "quantization": by_quantization, "validation": by_validation}


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("name", [name for name in FILES if name != "twice"])
def test_every_reader_reads_by_one_rule(name, reader, tmp_path):
    path, expected = prompts_found.write(name, tmp_path), FILES[name]
    if expected.refused:
        with pytest.raises(UsageError) as error:
            READERS[reader](path)
        assert expected.refused in str(error.value) and "\n" not in str(error.value)
    else:
        assert READERS[reader](path) == list(expected.prompts)


def test_only_who_needs_distinct_prompts_refuses_one_that_is_there_twice(tmp_path):
    path = prompts_found.write("twice", tmp_path)
    assert by_runtimes(path) == list(FILES["twice"].prompts)
    for reader in (by_quantization, by_validation):
        with pytest.raises(UsageError, match="line 4 is the same as line 1"):
            reader(path)


def test_a_file_that_cannot_be_read(tmp_path):
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=f"--prompts .* cannot be read: {reason}"):
            read_prompts(path, "--prompts")


def test_the_shipped_lists_have_no_comments():
    for path in (PROMPTS_FILE, DEMO_PROMPTS_FILE):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert read_prompts(path, "list", distinct=True) == lines


def test_text_in_another_encoding_is_refused():
    check_text("a réd ring 🟥", "PROMPT 1")
    argument = b"a r\xe9d ring".decode("utf-8", "surrogateescape")  # as sys.argv has it
    with pytest.raises(UsageError, match=r"PROMPT 1 has bytes that are no UTF-8 at character 4"):
        check_text(argument, "PROMPT 1")
