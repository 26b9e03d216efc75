"""Makes small random PEFT adapters of checkpoints in `../checkpoints` and the logits PEFT computes with them.

Run in a Python with torch, transformers, peft, safetensors and numpy:  python make.py [NAME...]

Both matrices of every pair are random and large enough to change an answer: PEFT's own B is zero, and would prove
nothing. The ranks differ from each other and from the number of experts, so that no packing fits but the right one.
The reference is PEFT in float32 over the base that `../checkpoints/make.py` wrote, with the very files written here.
The first three change `sharded`, the others `group2`, whose heads are as wide as the kernels for devices have them. Since
devices round to bf16, the tokens of these are such that no two experts nearly tie for the last place.
`golden.safetensors` holds `tokens` and `logits`, the latter for the last positions only.

all    attention and both expert parameters of every layer (so gate_up_proj has the inner name), rank-stabilized; bf16
mixed  two projections in two layers, one expert parameter and the router in all (PEFT's choice of layers holds for
       modules only, not for parameters); f16
some   expert parameters layer by layer: one layer has both, one has one, two have none; float32
wide   everything in every layer; bf16
narrow two projections in one layer, the router and one expert parameter in all; float32
"""
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config

HERE = Path(__file__).parent
NUM_TOKENS, KEPT = 40, 20
# Of the router's logits, whose standard deviation is about 1.5.
MARGIN = 0.05
# Name: base, adapter, type of its numbers.
CASES = {
    "all": ("sharded",
            dict(r=3, lora_alpha=7, use_rslora=True,
                 target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                 target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
            torch.bfloat16),
    "mixed": ("sharded",
              dict(r=5, lora_alpha=8, target_modules=["q_proj", "v_proj"], layers_to_transform=[1, 2],
                   target_parameters=["mlp.experts.down_proj", "mlp.router.weight"]),
              torch.float16),
    "some": ("sharded",
             dict(r=2, lora_alpha=3, target_modules=[],
                  target_parameters=["1.mlp.experts.gate_up_proj", "3.mlp.experts.gate_up_proj",
                                     "3.mlp.experts.down_proj"]),
             torch.float32),
    "wide": ("group2",
             dict(r=9, lora_alpha=14, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                  target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.router.weight"]),
             torch.bfloat16),
    "narrow": ("group2",
               dict(r=2, lora_alpha=3, target_modules=["k_proj", "o_proj"], layers_to_transform=[1],
                    target_parameters=["mlp.experts.gate_up_proj", "mlp.router.weight"]),
               torch.float32),
}


def base(name):
    return AutoModelForCausalLM.from_pretrained(
        HERE.parent / "checkpoints" / name, dtype=torch.float32, attn_implementation="eager",
        quantization_config=Mxfp4Config(dequantize=True)).eval()


def write(name, base_name, settings, dtype, seed):
    """An adapter as PEFT saves it, then with its numbers rounded to `dtype`, as training tools leave them."""
    g = np.random.default_rng(seed)
    model = get_peft_model(base(base_name), LoraConfig(**settings))
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            # Such that A x is about as large as x, and B brings it to a third.
            std = parameter.shape[1] ** -0.5 if "lora_A" in parameter_name else 0.2
            values = g.normal(0, std, parameter.shape).astype(np.float32)
            parameter.data = torch.from_numpy(values)
    model.peft_config["default"].base_model_name_or_path = base_name
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory)
    (directory / "README.md").unlink()
    file = directory / "adapter_model.safetensors"
    save_file({n: t.to(dtype) for n, t in load_file(file).items()}, file, metadata={"format": "pt"})


def adapted(name, base_name):
    model = PeftModel.from_pretrained(base(base_name), HERE / name).eval()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return model


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0]


def clearly_routed(model, g):
    """Random tokens, each passed over that would bring two experts within MARGIN of a tie for the last place."""
    top, vocab = model.config.num_experts_per_tok, model.config.vocab_size
    margins = []

    def note(router, inputs, _):
        # An adapter of the router is part of its weight while it runs.
        last = inputs[0].reshape(-1, inputs[0].shape[-1])[-1]
        values = torch.sort(router.weight @ last + router.bias, descending=True).values
        margins.append(values[top - 1] - values[top])

    routers = [m for m in model.modules() if type(m).__name__ == "GptOssTopKRouter"]
    hooks = [router.register_forward_hook(note) for router in routers]
    tokens = []
    while len(tokens) < NUM_TOKENS:
        margins.clear()
        candidate = tokens + [int(g.integers(0, vocab))]
        logits(model, candidate)
        assert len(margins) == model.config.num_hidden_layers
        if min(margins) > MARGIN:
            tokens = candidate
    for hook in hooks:
        hook.remove()
    return tokens


def main():
    """Makes those that are named, or all."""
    for seed, (name, (base_name, settings, dtype)) in enumerate(CASES.items(), start=1):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        write(name, base_name, settings, dtype, seed)
        plain, model, g = base(base_name), adapted(name, base_name), np.random.default_rng(seed + 200)
        if base_name == "sharded":
            tokens = g.integers(0, plain.config.vocab_size, NUM_TOKENS).tolist()
        else:
            tokens = clearly_routed(model, g)
        without, values = logits(plain, tokens), logits(model, tokens)
        print(name, "changes the logits by", round(((values - without).norm() / without.norm()).item(), 3))
        golden = {"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": values[-KEPT:].contiguous()}
        save_file(golden, HERE / name / "golden.safetensors")


main()
