"""Writes the checkpoint of train.py as a Hugging Face folder (MXFP4 experts, everything else bfloat16).

    python export.py WORK_FOLDER OUT_FOLDER [--check]

`--check` loads the result with transformers (dequantized, float32, eager attention) and compares its
logits with this package's own layer holding the same rounded weights.
"""
import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file, load_file

import model as M
import tokenizer as T

ID = {name: T.RANKS + i for i, name in enumerate(T.CONTROL)}


def interleave(w):
    """[E, 2I, ...] with gates first -> rows gate, up, gate, up, ..."""
    e, n = w.shape[:2]
    return w.reshape(e, 2, n // 2, *w.shape[2:]).transpose(1, 2).reshape(w.shape).contiguous()


def tensors(state, c):
    b = lambda k: state[k].to(torch.bfloat16).contiguous()
    out = {"model.embed_tokens.weight": b("embed"), "lm_head.weight": b("head"), "model.norm.weight": b("norm")}
    for i in range(c.layers):
        s, d = f"layers.{i}.", f"model.layers.{i}."
        for mine, theirs in (("norm1", "input_layernorm.weight"), ("norm2", "post_attention_layernorm.weight"), ("wq", "self_attn.q_proj.weight"), ("bq", "self_attn.q_proj.bias"),
                             ("wk", "self_attn.k_proj.weight"), ("bk", "self_attn.k_proj.bias"), ("wv", "self_attn.v_proj.weight"), ("bv", "self_attn.v_proj.bias"),
                             ("wo", "self_attn.o_proj.weight"), ("bo", "self_attn.o_proj.bias"), ("sinks", "self_attn.sinks"), ("wr", "mlp.router.weight"), ("br", "mlp.router.bias"), ("b2", "mlp.experts.down_proj_bias")):
            out[d + theirs] = b(s + mine)
        out[d + "mlp.experts.gate_up_proj_bias"] = interleave(b(s + "b1"))
        for mine, theirs, w in (("w1", "gate_up_proj", interleave(state[s + "w1"])), ("w2", "down_proj", state[s + "w2"])):
            out[d + f"mlp.experts.{theirs}_blocks"], out[d + f"mlp.experts.{theirs}_scales"] = M.mxfp4_pack(w)
    return out


def config(c):
    return {
        "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "bos_token_id": ID["<|startoftext|>"], "eos_token_id": ID["<|return|>"],
        "experts_per_token": c.top_k, "head_dim": c.head_dim, "hidden_act": "silu", "hidden_size": c.hidden, "initial_context_length": c.orig_ctx, "initializer_range": 0.02,
        "intermediate_size": c.inner, "layer_types": [("sliding_attention", "full_attention")[i % 2] for i in range(c.layers)], "max_position_embeddings": int(c.orig_ctx * c.factor),
        "model_type": "gpt_oss", "num_attention_heads": c.heads, "num_experts_per_tok": c.top_k, "num_hidden_layers": c.layers, "num_key_value_heads": c.kv_heads, "num_local_experts": c.experts,
        "output_router_logits": False, "pad_token_id": ID["<|endoftext|>"],
        "quantization_config": {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"], "quant_method": "mxfp4"},
        "rms_norm_eps": c.eps, "rope_scaling": {"beta_fast": c.beta_fast, "beta_slow": c.beta_slow, "factor": c.factor, "original_max_position_embeddings": c.orig_ctx, "rope_type": "yarn", "truncate": False},
        "rope_theta": int(c.theta), "router_aux_loss_coef": 0.01, "sliding_window": c.window, "swiglu_limit": c.limit, "tie_word_embeddings": False, "use_cache": True, "vocab_size": c.vocab,
    }


def load_rounded(net, path):
    """Loads an exported safetensors file into a Nano (rounded weights, no fake quantization needed)."""
    t, c = load_file(path), net.c
    state = {"embed": t["model.embed_tokens.weight"], "head": t["lm_head.weight"], "norm": t["model.norm.weight"]}
    flat = lambda w: torch.cat((w[:, 0::2], w[:, 1::2]), 1)
    for i in range(c.layers):
        s, d = f"layers.{i}.", f"model.layers.{i}."
        for mine, theirs in (("norm1", "input_layernorm.weight"), ("norm2", "post_attention_layernorm.weight"), ("wq", "self_attn.q_proj.weight"), ("bq", "self_attn.q_proj.bias"),
                             ("wk", "self_attn.k_proj.weight"), ("bk", "self_attn.k_proj.bias"), ("wv", "self_attn.v_proj.weight"), ("bv", "self_attn.v_proj.bias"),
                             ("wo", "self_attn.o_proj.weight"), ("bo", "self_attn.o_proj.bias"), ("sinks", "self_attn.sinks"), ("wr", "mlp.router.weight"), ("br", "mlp.router.bias"), ("b2", "mlp.experts.down_proj_bias")):
            state[s + mine] = t[d + theirs]
        state[s + "b1"] = flat(t[d + "mlp.experts.gate_up_proj_bias"])
        for mine, theirs in (("w1", "gate_up_proj"), ("w2", "down_proj")):
            blocks, scales = t[d + f"mlp.experts.{theirs}_blocks"], t[d + f"mlp.experts.{theirs}_scales"]
            code = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).long()
            v = M.FP4[code & 7] * (1 - 2 * (code >> 3)).float() * torch.exp2(scales.float() - 127)[..., None]
            v = v.flatten(-2)
            state[s + mine] = flat(v) if mine == "w1" else v
    net.load_state_dict({k: v.float() for k, v in state.items()})
    net.quant = False
    return net


def load_folder(folder):
    j = json.load(open(os.path.join(folder, "config.json")))
    c = M.Config(vocab=j["vocab_size"], hidden=j["hidden_size"], layers=j["num_hidden_layers"], heads=j["num_attention_heads"], kv_heads=j["num_key_value_heads"], experts=j["num_local_experts"], inner=j["intermediate_size"], window=j["sliding_window"])
    return load_rounded(M.Nano(c, 4096), os.path.join(folder, "model.safetensors"))


def check(folder):
    from transformers import AutoTokenizer, GptOssForCausalLM, Mxfp4Config

    net = load_folder(folder)
    hf, info = GptOssForCausalLM.from_pretrained(folder, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    print("loading:", {k: list(v)[:3] for k, v in info.items() if v})
    hf = hf.float().eval()
    tok = AutoTokenizer.from_pretrained(folder)
    import data, random, render
    rng = random.Random(3)
    worst = same = total = 0
    for _ in range(4):
        s = data.sample(rng, "train")
        a, b = render.render(s["request"], s["effort"], "2026-11-22")
        ids = tok.encode(a + b + render.answer(s["reasoning"], s.get("final"), s.get("call")), add_special_tokens=False)
        ids = torch.tensor([ids])
        with torch.no_grad():
            want = hf(ids).logits.float()
            pos = torch.arange(ids.shape[1])[None]
            x, _ = net.forward_cached(ids, pos, None, torch.ones_like(ids, dtype=torch.bool), torch.float32)
            got = net.logits(x, torch.float32)
        worst = max(worst, (want - got).abs().max().item())
        same += (want.argmax(-1) == got.argmax(-1)).sum().item()
        total += ids.shape[1]
    print(f"transformers against own layer: largest logit difference {worst:.5f}, same argmax {same}/{total}")


def main():
    a = argparse.ArgumentParser()
    a.add_argument("work")
    a.add_argument("out")
    a.add_argument("--check", action="store_true")
    a = a.parse_args()
    ck = torch.load(os.path.join(a.work, "checkpoint.pt"), weights_only=False)
    c = M.Config(**ck["config"])
    tmp = a.out.rstrip("/") + ".new"
    os.makedirs(tmp, exist_ok=True)
    save_file(tensors(ck["net"], c), os.path.join(tmp, "model.safetensors"), metadata={"format": "pt"})
    json.dump(config(c), open(os.path.join(tmp, "config.json"), "w"), indent=2)
    json.dump({"bos_token_id": ID["<|startoftext|>"], "do_sample": False, "eos_token_id": [ID["<|return|>"], ID["<|endoftext|>"], ID["<|call|>"]], "pad_token_id": ID["<|endoftext|>"]}, open(os.path.join(tmp, "generation_config.json"), "w"), indent=2)
    for f in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(os.path.join(a.work, f), tmp)
    os.makedirs(a.out, exist_ok=True)
    for f in os.listdir(tmp):
        os.chmod(os.path.join(tmp, f), 0o644)
        os.replace(os.path.join(tmp, f), os.path.join(a.out, f))
    os.rmdir(tmp)
    print("wrote", a.out, {f: os.path.getsize(os.path.join(a.out, f)) for f in sorted(os.listdir(a.out)) if os.path.isfile(os.path.join(a.out, f))}, "from", ck["done"])
    if a.check:
        check(a.out)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
