#!/usr/bin/env python3
"""FiRST as trained (arXiv:2410.12513): routers by gradients, then LoRA with routing on.

What is the paper's: a linear router with a sigmoid in front of every layer gives rho; one decision for a sequence, made on its prompt, used
for all generated tokens; h' = rho layer(h) + (1 - rho) h while training; loss = cross entropy + alpha sum(rho) + lambda |w|^2, lambda 0.01;
the model is frozen while routers are trained (R), routers while LoRA is (R+LoRA); a layer is kept where rho >= 0.5.

What the paper leaves open, or what is done otherwise here:
  - alpha is not in what is public of it: --alpha.
  - A router sees the mean over the prompt's rows, but the last, of the layer's input divided by its root mean square: what stages send
    (POOLED). The paper pools the routers' outputs, one a token.
  - Prompts run all layers, so routers see what they would with nothing left out, and only rows behind the prompt are gated.
  - The first and the last layer have no router: `sluice` never leaves them out.
  - --gate hard: what is gated is 0 or 1 with the gradient of rho (straight through); the paper's soft gate is the default.
  - In the second phase layers are left out (0 or 1), K of a document in the order of its rho, K drawn from --budgets; a job says its budget.
  - --budgets 0 trains LoRA without routing: the paper's comparison Base+LoRA.

  route_text.py train --natural TEXT > train.txt; route_text.py calibrate --natural TEXT > dev.txt
  first.py MODEL.gguf -f train.txt --judge dev.txt --routers routers.json --lora adapter.gguf

Writes routers as JSON {"schema": "sluice.routers/1", "layers", "width", "bias": [L], "weights": [L][width], "trained": {what with}}, which
`sluice profile take` puts into a profile, and the adapter as a GGUF file for --lora. Needs NumPy and PyTorch (1.13). README.md here says how
to keep page faults from halving its speed.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy
import torch
import torch.nn.functional as F

import to_gguf
from first_model import Llama, Lora
from gguf_read import Gguf
from spm import Spm

LEAST, BEHIND = 12, 32          # tokens of a document at least, and of what is behind its prompt at most
SCALED_BY = 128                 # documents whose features give routers their scale
KEEP_EVERY = 20                 # steps: a run that is stopped leaves what it has
KEPT = 30.0                     # bias of a router that always keeps its layer
SAME = 2e-3                     # of a logit: f32 sums in another order


# ---- documents ----

class Document:
    def __init__(self, tokenizer, text, longest):
        prompt, mark, rest = text.partition("\f")
        ids = tokenizer.bos + tokenizer.encode(prompt + rest + ("\n" if mark else ""))
        self.ids = ids[:longest] if not mark else ids
        alone = tokenizer.bos + tokenizer.encode(prompt)
        self.prompt = next((i for i, (a, b) in enumerate(zip(alone, ids)) if a != b), len(alone)) if mark else len(self.ids) // 2
        self.ids = self.ids[:self.prompt + BEHIND]

    def is_usable(self, longest):
        return LEAST <= len(self.ids) <= longest and 2 <= self.prompt <= len(self.ids) - 2


def read_documents(path, tokenizer, args):
    documents = []
    for text in path.read_text(encoding="utf8").split("\n\n"):
        if text and len(documents) < args.documents:
            document = Document(tokenizer, text, args.longest)
            documents += [document] if document.is_usable(args.longest) else []
    return documents


class Batch:
    """Prompts [batch, rows] and what is behind them, both padded behind: no row sees that."""

    def __init__(self, index, documents):
        self.index = torch.tensor(index)
        self.first = torch.tensor([d.prompt for d in documents])
        self.prompts = padded([d.ids[:d.prompt] for d in documents])
        self.behind = padded([d.ids[d.prompt:] for d in documents])
        self.pool = (torch.arange(self.prompts.shape[1]) < self.first[:, None] - 1) / (self.first[:, None] - 1)
        judged = torch.tensor([len(d.ids) - d.prompt - 1 for d in documents])[:, None]
        self.judged = (torch.arange(self.behind.shape[1]) < judged) / judged      # weights of rows that have a next token

    def nats(self, logits):
        """Nats a token of each document, [batch]."""
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), self.behind[:, 1:].flatten(), reduction="none")
        return (loss.view(len(self.behind), -1) * self.judged[:, :-1]).sum(1)


def padded(lists):
    longest = max(map(len, lists))
    return torch.tensor([x + [0] * (longest - len(x)) for x in lists])


def batches(documents, size, rng):
    """All documents once, those of a batch of about the same length."""
    order = sorted(range(len(documents)), key=lambda i: len(documents[i].ids) + rng.random() * 16)
    cut = [order[i:i + size] for i in range(0, len(order), size)]
    rng.shuffle(cut)
    return [Batch(part, [documents[i] for i in part]) for part in cut]


def forever(documents, size, rng):
    while True:
        yield from batches(documents, size, rng)


# ---- routers ----

class Routers:
    """w . (x - mean) / scale + b for every layer, folded into w . x + b when written."""

    def __init__(self, features):
        layers, width = features.shape[1:]
        self.mean, self.scale = features.mean(0), (features - features.mean(0)).pow(2).mean((0, 2)).sqrt()[:, None]
        self.w, self.b = torch.zeros(layers, width, requires_grad=True), torch.full((layers,), 1.0, requires_grad=True)
        self.always = torch.zeros(layers, dtype=torch.bool)
        self.always[0] = self.always[-1] = True

    def rho(self, features):
        score = ((features - self.mean) / self.scale * self.w).sum(-1) + self.b
        return torch.where(self.always, torch.ones(()), score.sigmoid())

    def folded(self):
        w = torch.where(self.always[:, None], torch.zeros(()), self.w / self.scale).detach()
        b = torch.where(self.always, torch.tensor(KEPT), self.b - (w * self.mean).sum(-1)).detach()
        return w, b


def least(rho, counts):
    """0 for the counts[i] layers of document i with the least rho, 1 for the others."""
    rank = rho.argsort(1).argsort(1)
    return (rank >= torch.as_tensor(counts)[:, None]).float()


def read_batch(model, batch, lora=None):
    """Pooled layer inputs of a batch's prompts and their rows of every layer."""
    return model.read_prompts(batch.prompts, batch.pool, lora)


def features_of(model, documents, size):
    with torch.no_grad():
        return torch.cat([read_batch(model, batch)[0] for batch in batches(documents, size, random.Random(0))])


def train_routers(model, documents, args, report):
    """The model is frozen and prompts run all of it, so their passes need no gradient."""
    routers = Routers(features_of(model, documents[:SCALED_BY], args.batch))
    optimizer = torch.optim.Adam([routers.w, routers.b], lr=args.router_rate)
    source = forever(documents, args.batch, random.Random(args.seed))
    for step in range(args.router_steps):
        for group in optimizer.param_groups:
            group["lr"] = args.router_rate * min(1, (step + 1) / 10, 2 * (1 - step / args.router_steps))
        batch = next(source)
        with torch.no_grad():
            pooled, rows = read_batch(model, batch)
        rho = routers.rho(pooled)
        gate = rho if args.gate == "soft" else (rho >= 0.5).float() + rho - rho.detach()
        loss = batch.nats(model.read_behind(batch.behind, batch.first, rows, gate)).mean()
        kept = rho[:, 1:-1].sum(1).mean()
        total = loss + args.alpha * kept + args.decay * routers.w.pow(2).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if (step + 1) % KEEP_EVERY == 0:
            write_routers(args.routers, model, routers, args, step + 1)
        report(step, args.router_steps, f"nats {loss.item():.3f}, sum of rho {kept.item():.2f}, |w| {routers.w.norm().item():.2f}")
    return routers


# ---- LoRA ----

def train_lora(model, routers, documents, args, report):
    """Prompts run with the adapter too, and what routers see is what came of that; gradients come from the rows behind them, unless
    --through-prompts says otherwise (twice the time)."""
    lora = Lora(model, args.rank, args.lora_alpha)
    optimizer = torch.optim.AdamW(lora.parameters(), lr=args.lora_rate, weight_decay=0)
    rng = random.Random(args.seed + 1)
    source = forever(documents, args.batch, rng)
    for step in range(args.lora_steps):
        for group in optimizer.param_groups:
            group["lr"] = args.lora_rate * min(1, (step + 1) / 20, 1.25 * (1 - step / args.lora_steps))
        batch, rho = next(source), None
        with torch.set_grad_enabled(args.through_prompts):
            pooled, rows = read_batch(model, batch, lora)
        torch.clear_autocast_cache()    # it holds the adapter's matrices as the prompts saw them: without gradients
        if any(args.budgets):
            rho = least(routers.rho(pooled.detach()), [rng.choice(args.budgets) for _ in batch.first])
        loss = batch.nats(model.read_behind(batch.behind, batch.first, rows, rho, lora)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lora.parameters(), 1)
        optimizer.step()
        if (step + 1) % KEEP_EVERY == 0:
            write_lora(args.lora, lora, args.lora.stem)
        report(step, args.lora_steps, f"nats {loss.item():.3f}")
    return lora


# ---- how good it is ----

def kl(full, got, batch):
    apart = F.kl_div(got.float().log_softmax(-1), full.float().log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return (apart * batch.judged).sum(1)


def judge(model, routers, documents, args, lora=None):
    """Nats a token and KL to the model as it is, by layers left out; at last by the paper's threshold."""
    counts = [0, 1, 2, 4, 5, None]
    sums, kept = torch.zeros(len(counts), 2), 0
    with torch.no_grad():
        for batch in batches(documents, args.batch, random.Random(0)):
            full = model.read_behind(batch.behind, batch.first, read_batch(model, batch)[1])
            pooled, rows = read_batch(model, batch, lora)
            rho = routers.rho(pooled)
            kept += (rho[:, 1:-1] >= 0.5).float().sum().item()
            for i, count in enumerate(counts):
                gate = (rho >= 0.5).float() if count is None else least(rho, [count] * len(rho))
                got = model.read_behind(batch.behind, batch.first, rows, gate, lora)
                sums[i] += torch.stack((batch.nats(got).sum(), kl(full, got, batch).sum()))
    print(f"  rho >= 0.5 keeps {kept / len(documents):.1f} of {model.count - 2} inner layers")
    for count, (nats, apart) in zip(counts, (sums / len(documents)).tolist()):
        print(f"  {'rho < 0.5' if count is None else count} left out: {nats:.4f} nats a token, KL {apart:.4f}", flush=True)


def check_logits(model, args, document):
    """Ours beside those of `sluice eval logits` on the same ids."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "logits.f32"
        subprocess.run([args.check, "eval", "logits", "-m", args.model, "-t", ",".join(map(str, document.ids)), "-o", out, "--stages", "1",
                        "--arith", "f32", "--kv", "f32", "--profile", "none", "--no-pack"], check=True, stdout=subprocess.DEVNULL)
        want = torch.from_numpy(numpy.fromfile(out, "<f4")).view(len(document.ids), -1)
    with torch.no_grad():
        batch = Batch([0], [document])
        rows = read_batch(model, batch)[1]
        got = model.read_behind(batch.behind, batch.first, rows)[0]
    want = want[document.prompt:]
    apart = (got - want).abs().max().item()
    print(f"logits of {len(document.ids)} tokens against {args.check}: largest difference {apart:.1e} (largest logit {want.abs().max():.1f})", flush=True)
    if not apart < SAME:
        raise SystemExit(f"that is above {SAME}: this is another model")


# ---- what is written ----

def write_routers(path, model, routers, args, steps):
    w, b = routers.folded()
    told = {"alpha": args.alpha, "lambda": args.decay, "gate": args.gate, "steps": steps, "batch": args.batch, "seed": args.seed}
    path.write_text(json.dumps({"schema": "sluice.routers/1", "layers": model.count, "width": model.width, "trained": told,
                                "bias": [float(f"{x:.7g}") for x in b.tolist()],
                                "weights": [[float(f"{x:.6g}") for x in row] for row in w.tolist()]}) + "\n")


def read_routers(path):
    """Routers of an earlier run, as they were folded."""
    known = json.loads(path.read_text())
    routers = Routers(torch.zeros(2, known["layers"], known["width"]))
    routers.mean, routers.scale = torch.zeros(()), torch.ones(())
    routers.w, routers.b = torch.tensor(known["weights"]), torch.tensor(known["bias"])
    return routers


def write_lora(path, lora, name):
    meta, rows = to_gguf.Metadata(), []
    for key, value in (("general.type", "adapter"), ("general.architecture", "llama"), ("adapter.type", "lora"), ("general.name", name)):
        meta.string(key, value)
    meta.f32("adapter.lora.alpha", lora.alpha)
    for key in lora.a:
        layer, matrix = key.split()
        for end, part in (("a", lora.a[key]), ("b", lora.b[key])):
            x = part.detach().numpy()
            rows.append((f"blk.{layer}.{matrix}.weight.lora_{end}", x.shape, 1, x.astype("<f2").tobytes()))
    to_gguf.write_gguf(path, meta, rows)


# ---- all of it ----

class Report:
    def __init__(self, what):
        self.what, self.start = what, time.time()

    def __call__(self, step, steps, words):
        if (step + 1) % 10 == 0 or step + 1 == steps:
            left = (time.time() - self.start) / (step + 1) * (steps - step - 1)
            print(f"{self.what} {step + 1}/{steps}, {left / 60:.1f} min left: {words}", flush=True)


def parse_args():
    parser = argparse.ArgumentParser(description="FiRST as trained: routers, then LoRA with routing on.")
    add = parser.add_argument
    add("model", help="GGUF file: llama; F32, F16 or Q8_0")
    add("-f", "--file", type=pathlib.Path, required=True, help="documents to train on (route_text.py train)")
    add("--judge", type=pathlib.Path, help="documents to judge by")
    add("--routers", type=pathlib.Path, required=True, help="routers are written here; with --router-steps 0 read from here")
    add("--lora", type=pathlib.Path, help="train an adapter too, and write it here")
    add("--documents", type=int, default=4000, help="at most (default 4000, as many as the paper's)")
    add("--longest", type=int, default=192, help="tokens of a document at most: longer ones are left out (default 192)")
    add("--batch", type=int, default=16, help="documents (default 16)")
    add("--router-steps", type=int, default=250, help="default 250: 4,000 documents once")
    add("--router-rate", type=float, default=0.01, help="learning rate (default 0.01)")
    add("--alpha", type=float, default=0.05, help="price of a layer that is kept, nats a token (default 0.05)")
    add("--decay", type=float, default=0.01, help="lambda: weight decay of routers (default 0.01, the paper's)")
    add("--gate", choices=("soft", "hard"), default="soft", help="while training routers (default soft, the paper's)")
    add("--lora-steps", type=int, default=500, help="default 500")
    add("--lora-rate", type=float, default=2e-3, help="learning rate (default 0.002)")
    add("--rank", type=int, default=8, help="of the adapter (default 8)")
    add("--lora-alpha", type=float, default=16, help="the adapter's scale times its rank (default 16)")
    add("--budgets", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2, 4, 5], help="layers left out while LoRA is trained (default 1,2,4,5)")
    add("--through-prompts", action="store_true", help="LoRA learns from the prompts' rows too")
    add("--float32", action="store_true", help="all in float32; default: matrix products in bfloat16")
    add("--seed", type=int, default=1)
    add("--threads", type=int, default=1, help="default 1: on cores that others use more are slower")
    add("--check", metavar="SLUICE", help="compare this model's logits with those of a program `sluice` first")
    return parser.parse_args()


def train_all(model, documents, judged, args):
    if args.router_steps:
        routers = train_routers(model, documents, args, Report("routers"))
        write_routers(args.routers, model, routers, args, args.router_steps)
    else:
        routers = read_routers(args.routers)
    if judged:
        print("routers:", flush=True)
        judge(model, routers, judged, args)
    if args.lora:
        lora = train_lora(model, routers, documents, args, Report("LoRA"))
        write_lora(args.lora, lora, args.lora.stem)
        if judged:
            print("routers and LoRA:", flush=True)
            judge(model, routers, judged, args, lora)


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    gguf = Gguf(args.model)
    model, tokenizer = Llama(gguf), Spm(gguf)
    documents = read_documents(args.file, tokenizer, args)
    judged = read_documents(args.judge, tokenizer, args) if args.judge else []
    print(f"{len(documents)} documents, {sum(len(d.ids) for d in documents)} tokens; {len(judged)} to judge by", flush=True)
    if args.check:
        check_logits(model, args, max(documents[:50], key=lambda d: len(d.ids)))
    with torch.cpu.amp.autocast(dtype=torch.bfloat16, enabled=not args.float32):
        train_all(model, documents, judged, args)


if __name__ == "__main__":
    sys.exit(main())
