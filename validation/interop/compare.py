"""compare.py CHECKPOINT TEXT VERIFY.json EVAL.json LOGITS.json [REFERENCE]: the public client on an exported checkpoint, beside voronoi's own
figures, and its divergence from REFERENCE, the unquantized model (a directory, or a GGUF file of 16-bit weights once dequantized).

Everything that is compared comes from transformers and vptq (or compressed-tensors, or aqlm) alone: the matrices their layers multiply by, the logits behind a
prompt, and the perplexity of the model they load. Exits with 1 when matrices are not equal bit for bit, when loading reports a
missing, unexpected or mismatched key, when a logit differs by more than 1e-3, the mean negative log-likelihood by more than 1e-4, or the divergence by more than 1e-4 of itself.
"""
import hashlib
import json
import math
import os
import re
import sys
from importlib import metadata
from importlib.util import find_spec

# The threads of aqlm's product add to the same sums without waiting for each other.
os.environ["NUMBA_NUM_THREADS"] = "1"
sys.modules["vptq.libvptq"] = None  # the CUDA extension refuses CPU tensors; without it vptq takes its torch path
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4
LOGIT_TOLERANCE = 1e-3
KL_TOLERANCE = 1e-4


def reference_model(path):
    if path.endswith(".gguf"):
        model = AutoModelForCausalLM.from_pretrained(os.path.dirname(path) or ".", gguf_file=os.path.basename(path), dtype=torch.float32)
        return model.half().float().eval()
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def place(name):
    """From its block on: what stands before, in a model within another, the client renames."""
    return name[name.find("layers."):]


def client():
    """What the layers are computed by."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("vptq", "compressed-tensors", "aqlm") if find_spec(name.replace("-", "_")))


def main():
    folder, text_path, verify_path, eval_path, logits_path = sys.argv[1:6]
    reference = reference_model(sys.argv[6]) if len(sys.argv) > 6 else None
    torch.set_num_threads(2)
    failures = []

    # The class that the checkpoint names: of a model within another the automatic one knows only some.
    config = AutoConfig.from_pretrained(folder)
    named = getattr(transformers, config.architectures[0])
    model, info = named.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    # Layers that predict further tokens come along as they were; the client knows them by the numbers that published models give them.
    depth = config.get_text_config().num_hidden_layers
    info["unexpected_keys"] = [key for key in info["unexpected_keys"]
                               if not (layer := re.search(r"layers\.(\d+)\.", key)) or int(layer[1]) < depth]
    model.eval()
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            failures.append(f"{kind}: {list(info[kind])[:4]}")

    with open(verify_path) as file:
        expected = {place(layer["name"]): layer["decoded_sha256"] for layer in json.load(file)["layers"]}
    layers = {place(name): module for name, module in model.named_modules()
              if type(module).__name__ in ("VQuantLinear", "QuantizedLinear") or getattr(module, "quantization_scheme", None) is not None}
    if set(layers) != set(expected):
        failures.append(f"the client has {len(layers)} quantized layers, voronoi {len(expected)}")
    equal = 0
    for name, layer in layers.items():
        # A layer applied to the identity gives the matrix it multiplies by.
        bias, layer.bias = layer.bias, None
        with torch.no_grad():
            matrix = layer(torch.eye(layer.in_features)).T.contiguous().numpy()
        layer.bias = bias
        equal += hashlib.sha256(matrix.astype("<f4").tobytes()).hexdigest() == expected.get(name)
    if equal != len(layers):
        failures.append(f"only {equal} of {len(layers)} matrices are equal")

    with open(eval_path) as file:
        rows = {row["metric"]: row for row in map(json.loads, file)}
    ours = rows["perplexity"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with open(text_path, encoding="utf-8", newline="") as file:
        text = file.read()
    # As much text as the windows take: tokens have at least one byte, and boundaries do not reach far.
    needed = ours["context"] * ours["windows"]
    ids = tokenizer(text[: 64 * needed], add_special_tokens=False)["input_ids"][:needed]
    total, count, divergence, same = 0.0, 0, 0.0, 0
    for begin in range(0, needed, ours["context"]):
        window = torch.tensor([ids[begin : begin + ours["context"]]])
        with torch.no_grad():
            logits = model(window, use_cache=False).logits[0].double()
        losses = torch.nn.functional.cross_entropy(logits[:-1], window[0, 1:], reduction="none")
        total, count = total + losses.sum().item(), count + len(losses)
        if reference is not None:
            with torch.no_grad():
                wanted = reference(window, use_cache=False).logits[0, :-1].double()
            log_p, log_q = wanted.log_softmax(-1), logits[:-1].log_softmax(-1)
            divergence += (log_p.exp() * (log_p - log_q)).sum().item()
            same += (wanted.argmax(-1) == logits[:-1].argmax(-1)).sum().item()
    theirs = total / count
    if not abs(theirs - ours["nll"]) <= TOLERANCE or count != ours["tokens"]:
        failures.append("the perplexities differ")

    if reference is not None and not abs(divergence / count - rows["kl"]["value"]) <= KL_TOLERANCE * divergence / count:
        failures.append("the divergences differ")

    with open(logits_path) as file:
        generated = json.load(file)
    prompt = torch.tensor([generated["ids"][: generated["prompt_tokens"]]])
    with torch.no_grad():
        last = model(prompt, use_cache=False).logits[0, -1].double()
    difference = (last - torch.tensor(generated["prompt_logits"], dtype=torch.float64)).abs().max().item()
    if not difference <= LOGIT_TOLERANCE:
        failures.append("the logits differ")

    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {client()}, CPU, float32")
    print(f"checkpoint   {folder}")
    print(f"keys         {'missing, unexpected, mismatched: none' if not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys')) else 'NOT all matched'}")
    print(f"matrices     {equal} of {len(layers)} equal bit for bit")
    print(f"logits       {len(last)} behind a prompt of {prompt.shape[1]} tokens, largest difference {difference:.1e}")
    print(f"mean nll     client {theirs:.8f}   voronoi {ours['nll']:.8f}   difference {theirs - ours['nll']:+.1e}")
    print(f"perplexity   client {math.exp(theirs):.5f}   voronoi {ours['perplexity']:.5f}   ({count} predictions, context {ours['context']})")
    if reference is not None:
        print(f"divergence   client {divergence / count:.8f}   voronoi {rows['kl']['value']:.8f}   same choice {same / count:.6f}, {rows['top1']['value']:.6f}")
    for failure in failures:
        print("FAILED      ", failure)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
