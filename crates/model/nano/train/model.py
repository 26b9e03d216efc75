"""The nano model: the GPT-OSS architecture in a few million parameters, laid out for quick CPU training.

Two entry points share the weights:

* `Nano.loss(batch)`: training on groups of conversations.  A group is one system prefix of P tokens
  plus n conversations padded to one length L; every conversation sees the prefix and itself, so the
  prefix is computed once.  All groups of a step are flattened into one [T, hidden] matrix for the
  token-wise work, and only attention walks over the groups.
* `Nano.prefill` / `Nano.step`: plain batched greedy decoding with a KV cache, for evaluation.

Experts are computed densely (all of them, weighted by the router, zero outside the top four): with
both projections as one big matrix product that is simpler and quicker here than gathering tokens.
"""
import math
from dataclasses import dataclass, asdict

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    vocab: int = 4128
    hidden: int = 192
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    experts: int = 8
    top_k: int = 4
    inner: int = 128
    window: int = 128
    eps: float = 1e-5
    theta: float = 150000.0
    factor: float = 32.0
    orig_ctx: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    limit: float = 7.0
    alpha: float = 1.702

    def dict(self):
        return asdict(self)


def yarn_tables(c: Config, n: int):
    """cos and sin [n, head_dim / 2] in float32, YaRN with truncate = false."""
    half = c.head_dim // 2
    i = torch.arange(half, dtype=torch.float64)
    f = c.theta ** (2 * i / c.head_dim)
    low = half * math.log(c.orig_ctx / (c.beta_fast * 2 * math.pi)) / math.log(c.theta)
    high = half * math.log(c.orig_ctx / (c.beta_slow * 2 * math.pi)) / math.log(c.theta)
    r = ((i - low) / (high - low)).clamp(0, 1)
    w = r / (c.factor * f) + (1 - r) / f
    m = 0.1 * math.log(c.factor) + 1
    a = torch.arange(n, dtype=torch.float64)[:, None] * w[None]
    return (a.cos() * m).float(), (a.sin() * m).float()


def rms_norm(x, g, eps: float):
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * g).to(x.dtype)


def swiglu(u, w, limit: float, alpha: float):
    """u [T, E, 2, I] (gate, up), w [T, E] router weights -> weighted inner [T, E * I]."""
    gate = u[:, :, 0].float().clamp(max=limit)
    up = u[:, :, 1].float().clamp(-limit, limit)
    h = gate * torch.sigmoid(alpha * gate) * (up + 1) * w.float()[..., None]
    return h.to(u.dtype).flatten(1)


def rope(x, cos, sin):
    """x [..., T, head, D]; cos, sin [T, 1, D / 2] -> rotate-half rotation."""
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def sink_softmax(s, mask, sink, scale: float):
    """Softmax over the last dimension with one more logit per head that takes weight and gives nothing.
    s [n, KV, r, l, K], mask [l, K], sink [KV, r]."""
    x = s.float() * scale + mask
    z = sink.float()[None, :, :, None, None]
    m = torch.maximum(x.amax(-1, keepdim=True), z).detach()
    e = torch.exp(x - m)
    return (e / (e.sum(-1, keepdim=True) + torch.exp(z - m))).to(s.dtype)


def route(g, k: int):
    """Router logits [T, E] -> weights [T, E], zero outside the top k, softmax inside."""
    v, i = g.topk(k, -1)
    m = torch.full_like(g, float("-inf")).scatter(-1, i, v)
    return m.softmax(-1)


FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def fp4_round(v):
    """Round |v| <= 6 to the nearest E2M1 magnitude (ties to even mantissa), keeping the sign."""
    a = v.abs().clamp(max=6.0)
    q = torch.where(a < 2.0, (a * 2).round() / 2, torch.where(a < 4.0, a.round(), (a / 2).round() * 2))
    return torch.copysign(q, v)


def mxfp4_fake(w):
    """Nearest MXFP4 of w along the last dimension (blocks of 32): the better of two power-of-two scales."""
    b = w.reshape(*w.shape[:-1], -1, 32)
    top = b.abs().amax(-1, keepdim=True).clamp(min=2.0 ** -60)
    s0 = torch.exp2(torch.floor(torch.log2(top)) - 2)  # top / s0 in [4, 8): may clip above 6
    s1 = s0 * 2
    q0, q1 = fp4_round(b / s0) * s0, fp4_round(b / s1) * s1
    e0, e1 = (q0 - b).square().sum(-1, keepdim=True), (q1 - b).square().sum(-1, keepdim=True)
    return torch.where(e0 <= e1, q0, q1).reshape(w.shape)


def mxfp4_pack(w):
    """w [..., K] -> (blocks U8 [..., K/32, 16], scales U8 [..., K/32]) of the same rounding as `mxfp4_fake`."""
    b = w.float().reshape(*w.shape[:-1], -1, 32)
    top = b.abs().amax(-1, keepdim=True).clamp(min=2.0 ** -60)
    s0 = torch.exp2(torch.floor(torch.log2(top)) - 2)
    s1 = s0 * 2
    e0 = (fp4_round(b / s0) * s0 - b).square().sum(-1, keepdim=True)
    e1 = (fp4_round(b / s1) * s1 - b).square().sum(-1, keepdim=True)
    s = torch.where(e0 <= e1, s0, s1)
    q = fp4_round(b / s)
    mag = (q.abs()[..., None] == FP4).float().argmax(-1)
    code = (mag + 8 * (q < 0)).to(torch.uint8)
    blocks = code[..., 0::2] | (code[..., 1::2] << 4)
    scales = (torch.log2(s[..., 0]).round() + 127).to(torch.uint8)
    return blocks.contiguous(), scales.contiguous()


class _Quant(torch.autograd.Function):
    """Straight-through MXFP4."""

    @staticmethod
    def forward(ctx, w):
        return _mxfp4_fake(w)

    @staticmethod
    def backward(ctx, g):
        return g


_rms_norm, _swiglu, _rope, _mxfp4_fake, _sink_softmax = rms_norm, swiglu, rope, mxfp4_fake, sink_softmax


def compile_kernels():
    """Fuse the element-wise pieces (several times quicker on a CPU)."""
    global _rms_norm, _swiglu, _rope, _mxfp4_fake, _sink_softmax
    opt = dict(dynamic=True)
    torch._dynamo.config.cache_size_limit = 64
    _rms_norm = torch.compile(rms_norm, **opt)
    _swiglu = torch.compile(swiglu, **opt)
    _rope = torch.compile(rope, **opt)
    _sink_softmax = torch.compile(sink_softmax, **opt)
    _mxfp4_fake = torch.compile(mxfp4_fake, dynamic=False)


@torch.no_grad()
def plant_induction(net, seed=0):
    """Starts the net with working copying circuits, which random weights need very long to find.

    Layer 0, KV head 1: query head 2 looks one token back (3: two back) by position alone, through the
    biases of the quickest rotary pairs, and writes what stood there into a subspace B.  Layers 1 and 3
    (full attention), KV head 1: query head 2 compares the current token with B in the slow rotary pairs,
    so it finds what followed the same token earlier, and writes that token's embedding back, which the
    output rows can read because they start with a share of the embeddings.
    """
    c = net.c
    assert c.heads == 4 and c.kv_heads == 2 and c.layers >= 4
    gen = torch.Generator().manual_seed(seed)
    D, half, h = c.head_dim, c.head_dim // 2, c.hidden
    w = torch.atan2(net.sin[1], net.cos[1])
    basis = torch.linalg.qr(torch.randn(h, h, generator=gen))[0].T  # orthonormal rows
    slow = [i + s for i in range(14, half) for s in (0, half)]
    m = len(slow)
    read, B = basis[:m], basis[m : 2 * m]
    kv, q2, q3 = slice(D, 2 * D), slice(2 * D, 3 * D), slice(3 * D, 4 * D)
    L = net.layers[0]
    for t in (L.wq[q2], L.wq[q3], L.wk[kv], L.wv[kv], L.bq[q2], L.bq[q3], L.bk[kv], L.bv[kv]):
        t.zero_()
    amp = 5.0
    for i in range(6):
        L.bk[D + i] = amp
        for head, back in ((2, 1), (3, 2)):
            L.bq[head * D + i] = amp * math.cos(back * w[i].item())
            L.bq[head * D + i + half] = -amp * math.sin(back * w[i].item())
    L.wv[D : D + m] = read
    L.wo[:, q2] = 0
    L.wo[:, 2 * D : 2 * D + m] = 1.2 * B.T
    L.wo[:, q3] = 0
    L.wo[:, 3 * D : 3 * D + m] = 0.5 * basis[2 * m : 3 * m].T
    for n in (1, 3):
        L = net.layers[n]
        for t in (L.wq[q2], L.wk[kv], L.bq[q2], L.bk[kv], L.bv[kv]):
            t.zero_()
        for j, d in enumerate(slow):
            L.wq[2 * D + d] = 1.4 * read[j]
            L.wk[D + d] = 1.4 * B[j]
        C = torch.linalg.qr(torch.randn(h, D, generator=gen))[0].T
        L.wv[kv] = C
        L.wo[:, q2] = 1.5 * C.T
        L.wo[:, q3] = 0
        L.wq[q3] = torch.randn(D, h, generator=gen) * 0.05
        L.sinks[2] = 4.0
    net.head += 0.1 * net.embed


@torch.no_grad()
def plant_pairs(net, vocab, gain=0.06):
    """Lets a copied " Oslo" be written as "Oslo" or ".Oslo" and the other way round: the output rows of
    tokens that differ by a leading space or dot get a share of each other's embeddings."""
    old = net.embed.detach()
    add = torch.zeros_like(net.head)
    for s, i in vocab.items():
        for mark in ("\u0120", "."):
            j = vocab.get(mark + s)
            if j is not None and s.isalpha() and s.isascii():
                add[j] += gain * old[i]
                if mark == "\u0120":
                    add[i] += gain * old[j]
                    dot = vocab.get("." + s)
                    if dot is not None:
                        add[dot] += gain * old[j]
    net.head += add


class Layer(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        p = lambda *s: nn.Parameter(torch.zeros(*s))
        n = lambda std, *s: nn.Parameter(torch.randn(*s) * std)
        h, e, i = c.hidden, c.experts, c.inner
        self.norm1, self.norm2 = nn.Parameter(torch.ones(h)), nn.Parameter(torch.ones(h))
        self.wq, self.wk, self.wv = n(h ** -0.5, q, h), n(h ** -0.5, kv, h), n(h ** -0.5, kv, h)
        self.bq, self.bk, self.bv = p(q), p(kv), p(kv)
        self.wo, self.bo = n(0.3 * q ** -0.5, h, q), p(h)
        self.sinks = p(c.heads)
        self.wr, self.br = n(h ** -0.5, e, h), p(e)
        # Rows of w1: the gates, then the ups.  The export interleaves them, as the checkpoint format wants.
        self.w1, self.b1 = n(h ** -0.5, e, 2 * i, h), p(e, 2 * i)
        self.w2, self.b2 = n(0.3 * i ** -0.5, e, h, i), p(e, h)


class Nano(nn.Module):
    def __init__(self, c: Config, max_pos: int = 2048):
        super().__init__()
        self.c = c
        self.embed = nn.Parameter(torch.randn(c.vocab, c.hidden) * 0.5)
        self.head = nn.Parameter(torch.randn(c.vocab, c.hidden) * 0.02)
        self.norm = nn.Parameter(torch.ones(c.hidden))
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        cos, sin = yarn_tables(c, max_pos)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.quant = False
        self._masks = {}

    # ---- training ----
    def _mask(self, p, l, sliding):
        """[l, p + l], to be added: queries at p.. see keys 0.."""
        key = (p, l, sliding)
        if key not in self._masks:
            q = torch.arange(p, p + l)[:, None]
            k = torch.arange(p + l)[None]
            ok = k <= q
            if sliding:
                ok &= k > q - self.c.window
            if len(self._masks) > 500:
                self._masks.clear()
            self._masks[key] = torch.zeros(l, p + l).masked_fill_(~ok, float("-inf"))
        return self._masks[key]

    def _attend(self, q, k, v, n, l, mask, sinks):
        """q [n * l, H, D], k, v [n, K, KV, D] -> [n * l, H * D]; the heads of a KV head are folded into its rows."""
        c = self.c
        KV, D, r, K = c.kv_heads, c.head_dim, c.heads // c.kv_heads, k.shape[1]
        q = q.view(n, l, KV, r, D).permute(0, 2, 3, 1, 4).reshape(n * KV, r * l, D)
        k = k.transpose(1, 2).reshape(n * KV, K, D)
        v = v.transpose(1, 2).reshape(n * KV, K, D)
        s = torch.bmm(q, k.transpose(1, 2)).view(n, KV, r, l, K)
        p = _sink_softmax(s, mask, sinks.view(KV, r), D ** -0.5)
        o = torch.bmm(p.view(n * KV, r * l, K), v)
        return o.view(n, KV, r, l, D).permute(0, 3, 1, 2, 4).reshape(n * l, -1)

    def loss(self, batch, dtype=torch.bfloat16, balance=0.01):
        c = self.c
        ids, pos = batch["ids"], batch["pos"]
        cos, sin = self.cos[pos][:, None], self.sin[pos][:, None]
        x = F.embedding(ids, self.embed).to(dtype)
        aux = 0.0
        w = lambda p: p.to(dtype)
        D, H, KV = c.head_dim, c.heads, c.kv_heads
        for li, L in enumerate(self.layers):
            sliding = li % 2 == 0
            y = _rms_norm(x, L.norm1, c.eps)
            qkv = F.linear(y, w(torch.cat((L.wq, L.wk, L.wv))), w(torch.cat((L.bq, L.bk, L.bv))))
            qk = _rope(qkv[:, : (H + KV) * D].unflatten(-1, (H + KV, D)), cos, sin)
            q, k = qk[:, :H], qk[:, H:]
            v = qkv[:, (H + KV) * D :].unflatten(-1, (KV, D))
            # torch.split rather than slices: its backward is one concatenation.
            sizes = [t for (_, P, n, l) in batch["groups"] for t in (P, n * l)]
            qs, ks, vs = q.split(sizes), k.split(sizes), v.split(sizes)
            outs = []
            for gi, (_, P, n, l) in enumerate(batch["groups"]):
                kp, vp = ks[2 * gi], vs[2 * gi]
                outs.append(self._attend(qs[2 * gi], kp[None], vp[None], 1, P, self._mask(0, P, sliding), L.sinks))
                join = lambda p, t: torch.cat((p[None].expand(n, -1, -1, -1), t.unflatten(0, (n, l))), 1)
                outs.append(self._attend(qs[2 * gi + 1], join(kp, ks[2 * gi + 1]), join(vp, vs[2 * gi + 1]), n, l, self._mask(P, l, sliding), L.sinks))
            x = x + F.linear(torch.cat(outs), w(L.wo), w(L.bo))
            y = _rms_norm(x, L.norm2, c.eps)
            g = F.linear(y, w(L.wr), w(L.br)).float()
            r = route(g, c.top_k)
            if balance:
                share = (r > 0).float().mean(0) / c.top_k
                aux = aux + c.experts * (share * g.softmax(-1).mean(0)).sum()
            w1, w2 = (_Quant.apply(L.w1), _Quant.apply(L.w2)) if self.quant else (L.w1, L.w2)
            u = F.linear(y, w(w1.flatten(0, 1)), w(L.b1.flatten()))
            rb = r.to(dtype)
            h = _swiglu(u.unflatten(-1, (c.experts, 2, c.inner)), rb, c.limit, c.alpha)
            x = x + h @ w(w2.transpose(1, 2).flatten(0, 1)) + rb @ w(L.b2)
        y = _rms_norm(x[batch["at"]], self.norm, c.eps)
        logits = F.linear(y, w(self.head)).float()
        ce = F.cross_entropy(logits, batch["target"])
        return ce, aux / c.layers

    # ---- evaluation: float32, KV cache ----
    def _expert_weights(self, L):
        return (mxfp4_fake(L.w1), mxfp4_fake(L.w2)) if self.quant else (L.w1, L.w2)

    @torch.no_grad()
    def forward_cached(self, ids, pos, cache, key_ok, dtype=torch.bfloat16):
        """ids, pos [B, T]; cache: list of (k, v, kpos) or None; key_ok [B, keys] marks real keys.  Returns hidden [B, T, h]."""
        c = self.c
        B, T = ids.shape
        cos, sin = self.cos[pos][:, :, None], self.sin[pos][:, :, None]
        w = lambda p: p.to(dtype)
        x = F.embedding(ids, self.embed).to(dtype)
        D, H, KV = c.head_dim, c.heads, c.kv_heads
        out = []
        for li, L in enumerate(self.layers):
            y = rms_norm(x, L.norm1, c.eps)
            q = rope(F.linear(y, w(L.wq), w(L.bq)).unflatten(-1, (H, D)), cos, sin)
            k = rope(F.linear(y, w(L.wk), w(L.bk)).unflatten(-1, (KV, D)), cos, sin)
            v = F.linear(y, w(L.wv), w(L.bv)).unflatten(-1, (KV, D))
            kpos = pos
            if cache is not None:
                pk, pv, pp = cache[li]
                k, v, kpos = torch.cat((pk, k), 1), torch.cat((pv, v), 1), torch.cat((pp, pos), 1)
            out.append((k, v, kpos))
            ok = (kpos[:, None] <= pos[:, :, None]) & key_ok[:, None]
            if li % 2 == 0:
                ok &= kpos[:, None] > pos[:, :, None] - c.window
            s = torch.einsum("bthd,bkhd->bhtk", q, k.repeat_interleave(H // KV, 2)).float() * D ** -0.5
            s = s.masked_fill(~ok[:, None], float("-inf"))
            s = torch.cat((s, L.sinks.float()[None, :, None, None].expand(B, H, T, 1)), -1).softmax(-1)[..., :-1]
            o = torch.einsum("bhtk,bkhd->bthd", s.to(dtype), v.repeat_interleave(H // KV, 2)).flatten(2)
            x = x + F.linear(o, w(L.wo), w(L.bo))
            y = rms_norm(x, L.norm2, c.eps).flatten(0, 1)
            r = route(F.linear(y, w(L.wr), w(L.br)).float(), c.top_k).to(dtype)
            w1, w2 = self._expert_weights(L) if not hasattr(L, "cached") else L.cached
            u = F.linear(y, w(w1.flatten(0, 1)), w(L.b1.flatten()))
            h = swiglu(u.unflatten(-1, (c.experts, 2, c.inner)), r, c.limit, c.alpha)
            x = x + (h @ w(w2.transpose(1, 2).flatten(0, 1)) + r @ w(L.b2)).unflatten(0, (B, T))
        return x, out

    @torch.no_grad()
    def logits(self, x, dtype=torch.bfloat16):
        return F.linear(rms_norm(x, self.norm, self.c.eps), self.head.to(dtype)).float()

    @torch.no_grad()
    def greedy(self, prompts, stop, max_new=220, pad=0, dtype=torch.bfloat16):
        """Greedy continuations of a batch of prompts (lists of ids), without the prompts."""
        for L in self.layers:
            L.cached = self._expert_weights(L)
        B, T = len(prompts), max(map(len, prompts))
        ids = torch.full((B, T), pad)
        ok = torch.zeros(B, T, dtype=torch.bool)
        pos = torch.zeros(B, T, dtype=torch.long)
        for b, p in enumerate(prompts):  # right-aligned
            ids[b, T - len(p):] = torch.tensor(p)
            ok[b, T - len(p):] = True
            pos[b, T - len(p):] = torch.arange(len(p))
        x, cache = self.forward_cached(ids, pos, None, ok, dtype)
        outs, done = [[] for _ in prompts], [False] * B
        for _ in range(max_new):
            nxt = self.logits(x[:, -1], dtype).argmax(-1)
            for b in range(B):
                if not done[b]:
                    outs[b].append(int(nxt[b]))
                    done[b] = outs[b][-1] in stop
            if all(done):
                break
            pos = pos[:, -1:] + 1
            ok = torch.cat((ok, torch.ones(B, 1, dtype=torch.bool)), 1)
            x, cache = self.forward_cached(nxt[:, None], pos, cache, ok, dtype)
        for L in self.layers:
            del L.cached
        return outs
