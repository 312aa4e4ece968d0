#!/usr/bin/env python3
"""What an arithmetic path of prompts costs in quality: KL divergence, likeliest token and perplexity over windows of a text.

usage: ops/bench/paths.py MODEL.gguf TEXT [--bin build/release] [--paths f32,i8b32,bf16amx] [--ctx 512] [--windows 24] [--json]

Every window of the text goes through `sluice eval logits` once for each path, all its rows in the prompt role (--arith f32 for f32, --prompt-arith
for the others), and whole rows of logits are compared in double. KL(p || q) is in nats, the mean over all rows of a window but the first, with a 95 %
interval from the spread of the windows' means. Cached rows are f16 on all paths. Wants numpy.
"""
import argparse, json, os, subprocess, sys, tempfile

try:
    import numpy as np
except ImportError:
    sys.exit("ops/bench/paths.py wants numpy (Debian: python3-numpy)")


def run(words):
    p = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit(f"{' '.join(words)[:300]}: status {p.returncode}\n{p.stderr[-2000:]}")
    return p.stdout


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def rows_of(a, path, ids, folder):
    out = os.path.join(folder, "rows.f32")
    how = ["--arith", "f32"] if path == "f32" else ["--prompt-arith", path]
    words = [f"{a.bin}/sluice", "eval", "logits", "-m", a.model, "--stages", "1", "--start-timeout", "600", *how, "--tokens", ",".join(map(str, ids)), "-o", out]
    run(words)
    x = np.fromfile(out, dtype="<f4").reshape(len(ids), -1)
    return log_softmax(x)[1:]


def spread(v):
    v = np.array(v)
    return {"mean": float(v.mean()), "ci95": float(1.96 * v.std(ddof=1) / len(v) ** 0.5) if len(v) > 1 else 0.0}


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--bin", default="build/release")
    p.add_argument("--paths", default="f32,i8b32,bf16amx")
    p.add_argument("--ctx", type=int, default=512)
    p.add_argument("--windows", type=int, default=24)
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    paths = a.paths.split(",")
    ids = json.loads(run([f"{a.bin}/sluice", "tokenize", "-m", a.model, "--json", "-f", a.text]))["tokens"]
    ids = [t["id"] if isinstance(t, dict) else t for t in ids]
    n = min(a.windows, len(ids) // a.ctx)
    if not n:
        sys.exit(f"{a.text}: {len(ids)} tokens, and a window has {a.ctx}")
    pairs = [(x, y) for i, x in enumerate(paths) for y in paths[i + 1:]]
    kl, top, nll = {q: [] for q in pairs}, {q: [] for q in pairs}, {q: [] for q in paths}
    with tempfile.TemporaryDirectory() as folder:
        for w in range(n):
            window = ids[w * len(ids) // n:][:a.ctx]
            window = window if len(window) == a.ctx else ids[-a.ctx:]
            rows = {q: rows_of(a, q, window, folder) for q in paths}
            for q in paths:
                nll[q].append(-rows[q][np.arange(a.ctx - 2), window[2:]].mean())
            for x, y in pairs:
                kl[x, y].append((np.exp(rows[x]) * (rows[x] - rows[y])).sum(axis=1).mean())
                top[x, y].append((rows[x].argmax(axis=1) == rows[y].argmax(axis=1)).mean())
    if a.json:
        print(json.dumps({"windows": n, "ctx": a.ctx, "ppl": {q: float(np.exp(np.mean(nll[q]))) for q in paths},
                          "pairs": [{"p": x, "q": y, "kl": spread(kl[x, y]), "same_top": spread(top[x, y])} for x, y in pairs]}))
        return
    print(f"{n} windows of {a.ctx} tokens")
    for q in paths:
        print(f"{q:>8}  perplexity {np.exp(np.mean(nll[q])):.4f}")
    for x, y in pairs:
        k, t = spread(kl[x, y]), spread(top[x, y])
        print(f"KL({x} || {y})  {k['mean']:.3e} +- {k['ci95']:.1e}   same likeliest token {100 * t['mean']:.2f} % +- {100 * t['ci95']:.2f}")


main()
