#!/usr/bin/env python3
"""What leaving out layers brings: dense and masked jobs in turns in one cluster, medians and ratios, the lines of docs/routing.md.

usage: ops/bench/skip.py MODEL [--layers 6] [--runs 5] [--gen 32] [--lines 1x2:1,1x2:8,2x1:1,2x1:8] [--rule RULE] [--small MODEL] [--bin build/release]

A line is STAGESxTHREADS:SESSIONS. --layers go evenly from the stages and evenly within each, in all rows; --rule compares a rule instead.
--small MODEL adds a line: three stages of that model, as many layers out as the middle stage has, spread over all layers or that whole stage;
what the second brings over the first is the stage that steps go around. Every round measures both ways, the second round in the other order;
the part of all processor time that others took meanwhile stands beside each line.
"""
import argparse, json, os, statistics, sys, time
from cluster import Cluster, busy


class Staged(Cluster):
    """Knows its stages and its processes."""

    def __init__(self, a, model, stages, threads):
        super().__init__(a.bin, "-m", model, "--stages", str(stages), "-t", str(threads))

    def __enter__(self):
        super().__enter__()
        status = json.loads(self.sluice("status", "--json"))
        self.stages = status["stages"]
        self.pids = [status["pid"]] + [s["pid"] for s in self.stages]
        return self

    def rate(self, skip, sessions, gen):
        """Tokens a second of all sessions, each from its first token to its last."""
        jobs = ({"custom_id": str(i), "tokens": [1 + (7 * i + k) % 200 for k in range(16)], "max_tokens": gen, "skip": skip, "ignore_eos": True}
                for i in range(sessions))
        return sum(r["timings"]["decode_tok_s"] for r in self.batch(jobs))


def spread(first, n, k):
    return [first + (2 * i + 1) * n // (2 * k) for i in range(k)]


def by_stage(stages, k):
    """k layers, evenly from the stages; of the first stage's first layer and the last one's last none."""
    left, out = k, []
    for i, s in enumerate(stages):
        first, n = s["first"] + (i == 0), s["last"] - s["first"] - (i == 0) - (i + 1 == len(stages))
        take = min(n, left // (len(stages) - i))
        out += spread(first, n, take) if take else []
        left -= take
    return "list:" + ",".join(map(str, out))


def mine(pids):
    """Processor seconds of the cluster, of our children and our own."""
    t = os.times()
    ticks = (sum(map(int, open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[11:13])) for p in pids)
    return t.children_user + t.children_system + t.user + t.system + sum(ticks) / os.sysconf("SC_CLK_TCK")


def measure(a, name, c, ways, sessions, gen):
    rates = {w: [] for w in ways}
    for w in ways:
        c.rate(w, sessions, gen)    # nobody pages in weights in a round
    all0, mine0, t = busy(), mine(c.pids), time.monotonic()
    for i in range(a.runs):
        for w in ways if i % 2 == 0 else ways[::-1]:
            rates[w].append(c.rate(w, sessions, gen))
    others = max(0.0, 100 * (busy() - all0 - mine(c.pids) + mine0) / ((time.monotonic() - t) * os.cpu_count()))
    x, y = (rates[w] for w in ways)
    ratios = [q / p for p, q in zip(x, y)]
    line = {"line": name, "first": ways[0], "second": ways[1], "x": statistics.median(x), "y": statistics.median(y), "ratio": statistics.median(ratios),
            "saved": 1e6 * sessions * statistics.median(1 / p - 1 / q for p, q in zip(x, y)), "least": min(ratios), "most": max(ratios), "others": others}
    print("#", " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()), file=sys.stderr, flush=True)
    return line


def empty_stage(a):
    with Staged(a, a.small, 3, 1) as c:
        first, last = c.stages[1]["first"], c.stages[1]["last"]
        whole, L = "list:" + ",".join(map(str, range(first, last))), c.stages[2]["last"]
        every = "list:" + ",".join(map(str, spread(1, L - 2, last - first)))
        return measure(a, f"{os.path.basename(a.small)}, 3 stages, {last - first} of {L} out: spread, or the middle stage", c, [every, whole], 1, 8 * a.gen)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--bin", default="build/release")
    p.add_argument("--lines", default="1x2:1,1x2:8,2x1:1,2x1:8")
    p.add_argument("--rule", default="")
    p.add_argument("--small", default="")
    for name, value in (("layers", 6), ("runs", 5), ("gen", 32)):
        p.add_argument("--" + name, type=int, default=value)
    a, lines = p.parse_args(), []
    for text in filter(None, a.lines.split(",")):
        shape, sessions = text.split(":")
        stages, threads = map(int, shape.split("x"))
        with Staged(a, a.model, stages, threads) as c:
            skip = a.rule or by_stage(c.stages, a.layers)
            lines.append(measure(a, f"{os.path.basename(a.model)}, {stages} stages x {threads}, {sessions} sessions, {skip}", c, ["none", skip], int(sessions), a.gen))
    if a.small:
        lines.append(empty_stage(a))
    print("| line | dense (or spread) tok/s | masked | ratio (median of pairs) | least to most | saved, us a token | others |\n|---|---:|---:|---:|---:|---:|---:|")
    for l in lines:
        print(f"| {l['line']} | {l['x']:.2f} | {l['y']:.2f} | {l['ratio']:.2f} | {l['least']:.2f} to {l['most']:.2f} | {l['saved']:.0f} | {l['others']:.0f} % |")


main()
