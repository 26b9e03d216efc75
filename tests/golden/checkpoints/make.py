"""Makes the small random checkpoints beside this file and the logits transformers computes for them.

Run in a Python with torch, transformers, safetensors and numpy:  python make.py [NAME...]

Weights are random. Those of the peaked checkpoints are larger than any initialization would make them, so that the
clamps at 7 bind, routing margins vary and attention is peaked. Those of the others are as large as keeps magnitudes
where training leaves them: scores between query and key have a standard deviation of about 2, what each half of a
layer adds one of about 1, logits one of 3, and 1 to 6 in 100 values reach the clamps at 7; their tokens are such that
no two experts nearly tie for the last place. Gains, sinks and biases are trivial in neither. The reference is
transformers in float32 with eager attention, reading the very files written here (its own MXFP4 decoder
included). `golden.safetensors` holds `tokens` and `logits`, the latter for the last positions only.
`original` is `sharded` once more in the other layout, so the two must agree bit for bit.
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Mxfp4Config

HERE = Path(__file__).parent
# Of the router's logits, whose standard deviation is 1.5.
MARGIN = 0.05
# Name: shape, number of tokens, positions kept.
CASES = {
    "sharded": (dict(layers=4, hidden=64, inner=64, heads=4, kv=2, dim=32, experts=8, top=2,
                     window=8, vocab=256), 40, 40),
    "head64": (dict(layers=3, hidden=96, inner=64, heads=4, kv=1, dim=64, experts=4, top=4,
                    window=4, vocab=200, truncate=True), 50, 50),
    "window128": (dict(layers=2, hidden=64, inner=96, heads=8, kv=2, dim=32, experts=6, top=2,
                       window=128, vocab=256), 300, 64),
    "long": (dict(layers=2, hidden=64, inner=32, heads=2, kv=1, dim=64, experts=4, top=4,
                  window=128, vocab=128), 4200, 16),
    "group8": (dict(layers=2, hidden=32, inner=32, heads=8, kv=1, dim=64, experts=32, top=4,
                    window=16, vocab=128, peaked=False), 120, 60),
    "group1": (dict(layers=2, hidden=96, inner=64, heads=2, kv=2, dim=64, experts=2, top=2,
                    window=128, vocab=96, peaked=False), 200, 72),
    "group2": (dict(layers=3, hidden=32, inner=64, heads=4, kv=2, dim=64, experts=8, top=2,
                    window=4, vocab=128, peaked=False), 90, 90),
}


def config(c):
    rope = dict(rope_type="yarn", factor=32.0, beta_fast=32.0, beta_slow=1.0,
                original_max_position_embeddings=4096)
    # The key is left out where it is true: that is what its absence means to transformers.
    if not c.get("truncate"):
        rope["truncate"] = False
    out = dict(
        architectures=["GptOssForCausalLM"], model_type="gpt_oss", attention_bias=True,
        num_hidden_layers=c["layers"], hidden_size=c["hidden"], intermediate_size=c["inner"],
        num_attention_heads=c["heads"], num_key_value_heads=c["kv"], head_dim=c["dim"],
        num_local_experts=c["experts"], num_experts_per_tok=c["top"],
        experts_per_token=c["top"], sliding_window=c["window"], vocab_size=c["vocab"],
        max_position_embeddings=8192, initial_context_length=4096, rms_norm_eps=1e-5,
        swiglu_limit=7.0, hidden_act="silu", tie_word_embeddings=False,
        layer_types=[["sliding_attention", "full_attention"][i % 2] for i in range(c["layers"])],
        pad_token_id=0, eos_token_id=1,
        quantization_config=dict(
            quant_method="mxfp4",
            modules_to_not_convert=["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                    "model.embed_tokens", "lm_head"]),
    )
    if c.get("truncate"):
        out["rope_parameters"] = rope | dict(rope_theta=150000.0)
    else:
        out |= dict(rope_scaling=rope, rope_theta=150000)
    return out


def spreads(c):
    """Standard deviations of the dense weights, and the exponents of the experts' scales."""
    if c.get("peaked", True):
        return dict(qkv=0.15, out=0.15, router=0.3, head=0.2, up=(123, 126), down=(119, 123))

    def exponents(wanted):
        # The sixteen values of MXFP4 have a root mean square of 2.9, and two neighbouring scales of 1.6.
        low = 127 + round(np.log2(wanted / 2.9 / 1.6))
        return low, low + 1

    h = c["hidden"] ** -0.5
    return dict(qkv=h, out=2 * (c["heads"] * c["dim"]) ** -0.5, router=1.5 * h, head=3 * h,
                up=exponents(2.5 * h), down=exponents(0.2 * c["inner"] ** -0.5))


def weights(c, seed):
    """Tensors by their Hugging Face names."""
    g = np.random.default_rng(seed)
    std = spreads(c)

    def normal(*shape, std, mean=0.0):
        return torch.from_numpy(g.normal(mean, std, shape).astype(np.float32)).bfloat16()

    def mxfp4(name, rows, cols, low, high):
        shape = (c["experts"], rows, cols // 32)
        blocks = g.integers(0, 256, (*shape, 16), dtype=np.uint8)
        scales = g.integers(low, high + 1, shape, dtype=np.uint8)
        return {f"{name}_blocks": torch.from_numpy(blocks),
                f"{name}_scales": torch.from_numpy(scales),
                f"{name}_bias": normal(c["experts"], rows, std=0.5)}

    h, q, kv = c["hidden"], c["heads"] * c["dim"], c["kv"] * c["dim"]
    out = {"model.embed_tokens.weight": normal(c["vocab"], h, std=1.0)}
    for i in range(c["layers"]):
        p = f"model.layers.{i}"
        out[f"{p}.input_layernorm.weight"] = normal(h, mean=1.0, std=0.3)
        for name, rows, cols, kind in [("q_proj", q, h, "qkv"), ("k_proj", kv, h, "qkv"),
                                       ("v_proj", kv, h, "qkv"), ("o_proj", h, q, "out")]:
            out[f"{p}.self_attn.{name}.weight"] = normal(rows, cols, std=std[kind])
            out[f"{p}.self_attn.{name}.bias"] = normal(rows, std=0.3)
        out[f"{p}.self_attn.sinks"] = normal(c["heads"], std=1.5)
        out[f"{p}.post_attention_layernorm.weight"] = normal(h, mean=1.0, std=0.3)
        out[f"{p}.mlp.router.weight"] = normal(c["experts"], h, std=std["router"])
        out[f"{p}.mlp.router.bias"] = normal(c["experts"], std=0.5)
        out |= mxfp4(f"{p}.mlp.experts.gate_up_proj", 2 * c["inner"], h, *std["up"])
        out |= mxfp4(f"{p}.mlp.experts.down_proj", h, c["inner"], *std["down"])
    out["model.norm.weight"] = normal(h, mean=1.0, std=0.3)
    out["lm_head.weight"] = normal(c["vocab"], h, std=std["head"])
    return out


def write_config(directory, values):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(values, indent=1) + "\n")


def write_hugging_face(name, tensors):
    """One file, or for `sharded` three in which layer 1 lies astride two and the order is mixed."""
    directory = HERE / name
    if name != "sharded":
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    middle = next(i for i, n in enumerate(names) if n.startswith("model.layers.1.mlp.router"))
    parts = [names[middle:-2], names[1:middle], names[:1] + names[-2:]]
    index = {}
    for i, part in enumerate(parts):
        file = f"model-{i:05}-of-{len(parts) - 1:05}.safetensors"
        save_file({n: tensors[n] for n in part}, directory / file, metadata={"format": "pt"})
        index |= {n: file for n in part}
    total = sum(t.nbytes for t in tensors.values())
    text = json.dumps(dict(metadata=dict(total_size=total), weight_map=index), indent=1)
    (directory / "model.safetensors.index.json").write_text(text + "\n")


def write_original(c, tensors):
    directory = HERE / "original"
    write_config(directory, dict(
        num_hidden_layers=c["layers"], num_experts=c["experts"], experts_per_token=c["top"],
        vocab_size=c["vocab"], hidden_size=c["hidden"], intermediate_size=c["inner"],
        swiglu_limit=7.0, head_dim=c["dim"], num_attention_heads=c["heads"],
        num_key_value_heads=c["kv"], sliding_window=c["window"], initial_context_length=4096,
        rope_theta=150000, rope_scaling_factor=32.0, rope_ntk_alpha=1, rope_ntk_beta=32))
    out = {"embedding.weight": tensors["model.embed_tokens.weight"],
           "norm.scale": tensors["model.norm.weight"],
           "unembedding.weight": tensors["lm_head.weight"]}
    for i in range(c["layers"]):
        ours, theirs = f"block.{i}", f"model.layers.{i}"
        for kind in ["weight", "bias"]:
            parts = [tensors[f"{theirs}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
            out[f"{ours}.attn.qkv.{kind}"] = torch.cat(parts)
            out[f"{ours}.attn.out.{kind}"] = tensors[f"{theirs}.self_attn.o_proj.{kind}"]
            out[f"{ours}.mlp.gate.{kind}"] = tensors[f"{theirs}.mlp.router.{kind}"]
        out[f"{ours}.attn.norm.scale"] = tensors[f"{theirs}.input_layernorm.weight"]
        out[f"{ours}.attn.sinks"] = tensors[f"{theirs}.self_attn.sinks"]
        out[f"{ours}.mlp.norm.scale"] = tensors[f"{theirs}.post_attention_layernorm.weight"]
        for a, b in [("mlp1", "gate_up_proj"), ("mlp2", "down_proj")]:
            for part in [".blocks", ".scales"]:
                source = f"{theirs}.mlp.experts.{b}_{part[1:]}"
                out[f"{ours}.mlp.{a}_weight{part}"] = tensors[source]
            out[f"{ours}.mlp.{a}_bias"] = tensors[f"{theirs}.mlp.experts.{b}_bias"]
    save_file(out, directory / "model.safetensors")


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager",
        quantization_config=Mxfp4Config(dequantize=True)).eval()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return model


def reference(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0]


def clearly_routed(model, c, num_tokens, g):
    """Random tokens, each passed over that would bring two experts within MARGIN of a tie for the last place: there
    any rounding decides, and one row of many is far off."""
    margins = []

    def note(router, inputs, _):
        last = inputs[0].reshape(-1, c["hidden"])[-1]
        logits = torch.sort(router.weight @ last + router.bias, descending=True).values
        margins.append((logits[c["top"] - 1:-1] - logits[c["top"]:])[:1])

    hooks = [layer.mlp.router.register_forward_hook(note) for layer in model.model.layers]
    tokens = []
    while len(tokens) < num_tokens:
        margins.clear()
        candidate = tokens + [int(g.integers(0, c["vocab"]))]
        reference(model, candidate)
        if torch.all(torch.cat(margins) > MARGIN):
            tokens = candidate
    for hook in hooks:
        hook.remove()
    return tokens


def main():
    """Makes those that are named, or all."""
    for seed, (name, (c, num_tokens, kept)) in enumerate(CASES.items(), start=1):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        directory = HERE / name
        tensors = weights(c, seed)
        write_config(directory, config(c))
        write_hugging_face(name, tensors)
        model = load(directory)
        g = np.random.default_rng(seed + 100)
        if c.get("peaked", True):
            tokens = g.integers(0, c["vocab"], num_tokens).tolist()
        else:
            tokens = clearly_routed(model, c, num_tokens, g)
        logits = reference(model, tokens)[-kept:].contiguous()
        golden = {"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": logits}
        save_file(golden, directory / "golden.safetensors")
        print(name, tuple(logits.shape), "standard deviation", round(logits.std().item(), 3))
        if name == "sharded":
            write_original(c, tensors)


main()
