"""Ask a Wuerstchen model on Triton for a picture: python client.py "a red circle" -o picture.png

It needs `pip install 'tritonclient[http]' numpy pillow`, and a server that serves the model.
"""

import argparse

import numpy as np
import tritonclient.http as triton
from PIL import Image

TYPES = {
    "PROMPT": ("BYTES", np.object_),
    "NEGATIVE_PROMPT": ("BYTES", np.object_),
    "SEED": ("INT64", np.int64),
    "STEPS": ("INT32", np.int32),
    "GUIDANCE": ("FP32", np.float32),
    "DECODER_STEPS": ("INT32", np.int32),
    "HEIGHT": ("INT32", np.int32),
    "WIDTH": ("INT32", np.int32),
}


def generate(
    client: triton.InferenceServerClient, model: str, **values: object
) -> tuple[np.ndarray, int]:
    """One picture (H,W,3) uint8 and its seed; `values` by inputs' names, None for none."""
    inputs = []
    for name, value in values.items():
        if value is not None:
            kind, dtype = TYPES[name]
            array: np.ndarray = np.array([[value]], dtype)
            inputs.append(triton.InferInput(name, array.shape, kind))
            inputs[-1].set_data_from_numpy(array)
    response = client.infer(model, inputs)
    return response.as_numpy("IMAGE")[0], int(response.as_numpy("SEED")[0, 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("-o", "--output", default="picture.png")
    parser.add_argument("--server", default="localhost:8000", help="host and port of HTTP")
    parser.add_argument("--model", default="wuerstchen")
    for name, (_, dtype) in TYPES.items():
        if name != "PROMPT":
            kind = str if dtype is np.object_ else float if dtype is np.float32 else int
            parser.add_argument(f"--{name.lower().replace('_', '-')}", type=kind)
    args = parser.parse_args()
    values = {name: getattr(args, name.lower()) for name in TYPES}
    # Pictures take a while: no answer before this many seconds is an error.
    client = triton.InferenceServerClient(args.server, network_timeout=600, connection_timeout=10)
    picture, seed = generate(client, args.model, **values)
    Image.fromarray(picture).save(args.output)
    print(f"wrote {args.output} (seed {seed})")


if __name__ == "__main__":
    main()
