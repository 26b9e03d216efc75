"""Makes small random PEFT adapters of the checkpoint `sharded` and the logits PEFT computes with them.

Run in a Python with torch, transformers, peft, safetensors and numpy:  python make.py

Both matrices of every pair are random and large enough to change an answer: PEFT's own B is zero, and would prove
nothing. The ranks differ from each other and from the number of experts, so that no packing fits but the right one.
The reference is PEFT in float32 over the base that `../checkpoints/make.py` wrote, with the very files written here.
`golden.safetensors` holds `tokens` and `logits`, the latter for the last positions only.

all    attention and both expert parameters of every layer (so gate_up_proj has the inner name), rank-stabilized; bf16
mixed  two projections in two layers, one expert parameter and the router in all (PEFT's choice of layers holds for
       modules only, not for parameters); f16
some   expert parameters layer by layer: one layer has both, one has one, two have none; float32
"""
import shutil
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config

HERE = Path(__file__).parent
BASE = HERE.parent / "checkpoints" / "sharded"
NUM_TOKENS, KEPT = 40, 20
# Name: adapter, type of its numbers.
CASES = {
    "all": (dict(r=3, lora_alpha=7, use_rslora=True,
                 target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                 target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
            torch.bfloat16),
    "mixed": (dict(r=5, lora_alpha=8, target_modules=["q_proj", "v_proj"], layers_to_transform=[1, 2],
                   target_parameters=["mlp.experts.down_proj", "mlp.router.weight"]),
              torch.float16),
    "some": (dict(r=2, lora_alpha=3, target_modules=[],
                  target_parameters=["1.mlp.experts.gate_up_proj", "3.mlp.experts.gate_up_proj",
                                     "3.mlp.experts.down_proj"]),
             torch.float32),
}


def base():
    return AutoModelForCausalLM.from_pretrained(
        BASE, dtype=torch.float32, attn_implementation="eager",
        quantization_config=Mxfp4Config(dequantize=True)).eval()


def write(name, settings, dtype, seed):
    """An adapter as PEFT saves it, then with its numbers rounded to `dtype`, as training tools leave them."""
    g = np.random.default_rng(seed)
    model = get_peft_model(base(), LoraConfig(**settings))
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            # Such that A x is about as large as x, and B brings it to a third.
            std = parameter.shape[1] ** -0.5 if "lora_A" in parameter_name else 0.2
            values = g.normal(0, std, parameter.shape).astype(np.float32)
            parameter.data = torch.from_numpy(values)
    model.peft_config["default"].base_model_name_or_path = "sharded"
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory)
    (directory / "README.md").unlink()
    file = directory / "adapter_model.safetensors"
    save_file({n: t.to(dtype) for n, t in load_file(file).items()}, file, metadata={"format": "pt"})


def reference(name, tokens):
    with torch.no_grad():
        plain = base()(torch.tensor([tokens]), use_cache=False).logits[0]
        model = PeftModel.from_pretrained(base(), HERE / name).eval()
        assert all(p.dtype == torch.float32 for p in model.parameters())
        adapted = model(torch.tensor([tokens]), use_cache=False).logits[0]
    difference = ((adapted - plain).norm() / plain.norm()).item()
    print(name, "changes the logits by", round(difference, 3))
    return adapted


def main():
    for seed, (name, (settings, dtype)) in enumerate(CASES.items(), start=1):
        write(name, settings, dtype, seed)
        vocab = base().config.vocab_size
        tokens = np.random.default_rng(seed + 200).integers(0, vocab, NUM_TOKENS).tolist()
        logits = reference(name, tokens)[-KEPT:].contiguous()
        golden = {"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": logits}
        save_file(golden, HERE / name / "golden.safetensors")


main()
