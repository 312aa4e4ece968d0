#!/usr/bin/env python3
"""Train a small Llama on the arrays of prepare.py and write NAME.pt.

Llama architecture as GGUF's "llama" reads it: RMSNorm (1e-5), rotary positions on interleaved pairs (so to_gguf.py permutes
nothing), grouped-query attention, SwiGLU, tied embeddings, no biases. Weights are float32, arithmetic is bfloat16 with
float32 residuals. The learning rate warms up over 150 steps and falls as a cosine of the time used; the last 12 % of the
time trains on contexts of 2,048 instead of 512.

Training ends by the clock, so the result depends on the machine; data and initial weights do not.

Needs PyTorch and NumPy; runs on the CPU.
"""
import argparse
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCABULARY = 4096
NORM_EPSILON = 1e-5
ROPE_BASE = 10000.0
INIT = 0.03
SHORT, LONG = (512, 8), (2048, 2)       # context and batch
LONG_FROM = .88                         # share of the time after which contexts are long
WARMUP_STEPS = 150
FLOOR = 0.05                            # the learning rate's end, as a share of its peak
CLIP = 1.0
MASKED = -1e4                           # far below any score, inside bfloat16


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.w = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + NORM_EPSILON) * self.w).to(torch.bfloat16)


def rope_tables(length, head):
    """cos and sin [length, 1, head], each pair's angle twice."""
    frequency = ROPE_BASE ** (-torch.arange(0, head, 2).float() / head)
    angle = torch.arange(length).float()[:, None] * frequency

    def widen(t):
        return t.repeat_interleave(2, -1).to(torch.bfloat16)[:, None]
    return widen(angle.cos()), widen(angle.sin())


def rotate(x, cos, sin):
    """Rotate interleaved pairs of x [batch, length, heads, head]."""
    pairs = x.view(*x.shape[:-1], x.shape[-1] // 2, 2)
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), -1).flatten(-2)
    return x * cos + turned * sin


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width, head = shape.width, shape.head
        self.shape = shape

        def linear(inputs, outputs):
            return nn.Linear(inputs, outputs, bias=False)
        self.q, self.k, self.v, self.o = (linear(width, width), linear(width, shape.kv_heads * head),
                                          linear(width, shape.kv_heads * head), linear(width, width))
        self.g, self.u, self.dn = linear(width, shape.ffn), linear(width, shape.ffn), linear(shape.ffn, width)
        self.n1, self.n2 = RMSNorm(width), RMSNorm(width)
        for layer in (self.q, self.k, self.v, self.g, self.u):
            nn.init.normal_(layer.weight, 0, INIT)
        for layer in (self.o, self.dn):         # what adds to the residual starts smaller the deeper the model (GPT-2)
            nn.init.normal_(layer.weight, 0, INIT / math.sqrt(2 * shape.layers))

    def attention(self, h, cos, sin, mask):
        """Grouped queries as longer sequences: [batch * kv_heads, group * length, head]."""
        batch, length, width = h.shape
        heads, kv_heads, head = self.shape.heads, self.shape.kv_heads, self.shape.head
        group = heads // kv_heads
        q = rotate(self.q(h).view(batch, length, heads, head), cos, sin)
        k = rotate(self.k(h).view(batch, length, kv_heads, head), cos, sin)
        v = self.v(h).view(batch, length, kv_heads, head)
        q = q.view(batch, length, kv_heads, group, head).permute(0, 2, 3, 1, 4).reshape(batch * kv_heads, group * length, head)
        k = k.permute(0, 2, 3, 1).reshape(batch * kv_heads, head, length)
        v = v.transpose(1, 2).reshape(batch * kv_heads, length, head)
        weights = torch.baddbmm(mask, q, k, alpha=head ** -0.5).softmax(-1, dtype=torch.bfloat16)
        out = (weights @ v).view(batch, kv_heads, group, length, head)
        return out.permute(0, 3, 1, 2, 4).reshape(batch, length, width)

    def forward(self, x, cos, sin, mask):
        x = x + self.o(self.attention(self.n1(x), cos, sin, mask))
        h = self.n2(x)
        return x + self.dn(F.silu(self.g(h)) * self.u(h))


class Shape:
    def __init__(self, width, layers, heads, kv_heads, ffn):
        self.width, self.layers, self.heads, self.kv_heads, self.ffn = width, layers, heads, kv_heads, ffn
        self.head = width // heads


class Model(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.e = nn.Embedding(VOCABULARY, shape.width)
        nn.init.normal_(self.e.weight, 0, INIT)
        self.b = nn.ModuleList([Block(shape) for _ in range(shape.layers)])
        self.n = RMSNorm(shape.width)

    def forward(self, tokens, cos, sin, mask):
        h = self.e(tokens).float()
        for block in self.b:
            h = block(h, cos, sin, mask)
        return F.linear(self.n(h), self.e.weight.to(torch.bfloat16))


class Batches:
    """Consecutive stretches of the arrays; at the end again from a random offset."""

    def __init__(self, folder, start):
        self.tokens = np.fromfile(folder / "toks.u16", np.uint16)
        self.weights = np.fromfile(folder / "wts.u8", np.uint8)
        self.at = start

    def next(self, length, batch):
        if self.at + length * batch + 1 > len(self.tokens):
            self.at = np.random.randint(0, 512)
        index = self.at + np.arange(batch)[:, None] * length + np.arange(length + 1)[None]
        self.at += length * batch
        tokens = torch.from_numpy(self.tokens[index].astype(np.int64))
        weights = torch.from_numpy(self.weights[index[:, 1:]].astype(np.float32))
        return tokens[:, :-1], tokens[:, 1:], weights


def make_optimizer(model):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW([dict(params=matrices, weight_decay=.1), dict(params=vectors, weight_decay=0.)],
                             lr=1, betas=(.9, .95))


def causal_masks(shape):
    group = shape.heads // shape.kv_heads
    return {length: torch.full((length, length), MASKED).triu(1).repeat(group, 1).to(torch.bfloat16)
            for length in (SHORT[0], LONG[0])}


def learning_rate(peak, step, progress):
    return peak * min(1, (step + 1) / WARMUP_STEPS) * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))


def train(model, shape, batches, args, checkpoint):
    optimizer = make_optimizer(model)
    masks = causal_masks(shape)
    cos, sin = rope_tables(LONG[0], shape.head)
    start, step, seen = time.time(), 0, 0
    while True:
        progress = (time.time() - start) / (args.minutes * 60)
        if progress >= 1:
            break
        length, batch = SHORT if progress < LONG_FROM else LONG
        inputs, targets, weights = batches.next(length, batch)
        rate = learning_rate(args.rate, step, progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.cpu.amp.autocast(dtype=torch.bfloat16):
            logits = model(inputs, cos[:length], sin[:length], masks[length])
        losses = F.cross_entropy(logits.view(-1, VOCABULARY).float(), targets.reshape(-1), reduction="none").view(batch, length)
        loss = (losses * weights).sum() / weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        step += 1
        seen += length * batch
        if step % 25 == 0:
            answers = weights >= 3
            answer_loss = (losses * answers).sum().item() / max(1, answers.sum().item())
            print(f"{args.name} step {step} tokens {seen / 1e6:.1f}M time {progress:.2f} context {length} rate {rate:.2e} "
                  f"loss {losses.mean().item():.3f} answers {answer_loss:.3f} {seen / (time.time() - start):.0f} tokens/s",
                  flush=True)
        if step % 500 == 0:
            torch.save(model.state_dict(), checkpoint)
    torch.save(model.state_dict(), checkpoint)
    print("done", step, seen, flush=True)


def parse_args():
    parser = argparse.ArgumentParser(description="Train a small Llama; writes DIR/NAME.pt.")
    parser.add_argument("name")
    for name, words in (("width", "model dimension"), ("layers", "layers"), ("heads", "query heads"),
                        ("kv_heads", "key/value heads"), ("ffn", "feed-forward dimension")):
        parser.add_argument(name, type=int, help=words)
    parser.add_argument("minutes", type=float, help="how long to train")
    parser.add_argument("dir", type=pathlib.Path, nargs="?", default=pathlib.Path("."), help="toks.u16, wts.u8 and the result")
    parser.add_argument("--resume", type=pathlib.Path, help="start from this checkpoint")
    parser.add_argument("--from-token", type=int, default=0, help="where in the arrays to start (default 0)")
    parser.add_argument("--rate", type=float, help="peak learning rate (default 2e-3 from width 256 on, else 3e-3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    args = parser.parse_args()
    args.rate = args.rate or (2e-3 if args.width >= 256 else 3e-3)
    return args


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shape = Shape(args.width, args.layers, args.heads, args.kv_heads, args.ffn)
    model = Model(shape)
    if args.resume:
        model.load_state_dict(torch.load(args.resume))
    print("parameters", sum(p.numel() for p in model.parameters()), flush=True)
    train(model, shape, Batches(args.dir, args.from_token), args, args.dir / (args.name + ".pt"))


if __name__ == "__main__":
    main()
