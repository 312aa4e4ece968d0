#!/usr/bin/env python3
"""What predicted prompts cost and give, auxiliary by auxiliary: the tables and the chart of docs/kv-prediction.md.

usage: ops/bench/predict_curve.py MODEL TEXT QA_DIR --aux NAME=FILE|layers:...[@INPUTS] [--aux ...] --maps DIR --log FILE.jsonl [--prose FILE] [--svg FILE]
       [--newest 32,8] [--limit N] [--seconds N] [--bin build/release]

TEXT is what maps are fitted on (DIR/NAME.gguf, made where it is missing); PROSE what `sluice eval predict` reads. QA_DIR has qa_context.jsonl and
qa_closed.jsonl. Every measurement is a line of FILE.jsonl and is not made again, so that the run can be stopped, or given --seconds, and goes on later.
An auxiliary of layers is also measured alone: the model with all its other layers left out. Intervals are Wilson's, 95 %.
"""
import argparse, json, math, os, subprocess, sys, time


class Log:
    def __init__(self, path, seconds):
        self.path, self.end = path, time.monotonic() + seconds
        self.at = {}
        if os.path.exists(path):
            for line in open(path):
                r = json.loads(line)
                self.at[r["key"]] = r["value"]

    def get(self, key, words):
        if key not in self.at:
            if time.monotonic() > self.end:
                return None
            p = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if p.returncode:
                sys.exit(f"{' '.join(words)}: status {p.returncode}\n{p.stderr[-2000:]}")
            self.at[key] = json.loads(p.stdout)
            with open(self.path, "a") as f:
                f.write(json.dumps({"key": key, "value": self.at[key]}) + "\n")
            print("#", key, file=sys.stderr, flush=True)
        return self.at[key]


def wilson(k, n):
    p, z = k / n, 1.96
    mid, half, by = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)), 1 + z * z / n
    return f"{k}/{n} ({100 * max(0.0, mid - half) / by:.0f} to {100 * (mid + half) / by:.0f} %)"


def right(r):
    return wilson(r["right"], r["total"]) if r else ""


def cells(name, items):
    print("| " + " | ".join([name, *items]) + " |")


def measure(a, log):
    program, out = a.bin + "/sluice", {}

    def qa(key, which, *words):
        return log.get(f"{key} {which}", [program, "eval", "qa", "-f", f"{a.qa}/qa_{which}.jsonl", "--stages", "1", "-t", "1", "--json",
                                          *(["--limit", str(a.limit)] if a.limit else []), *words])

    exact = {w: qa("exact", w, "-m", a.model) for w in ("context", "closed")}
    for name, aux in a.aux:
        aux, inputs = (aux.rsplit("@", 1) + [a.inputs])[:2]
        maps, r = f"{a.maps}/{name}.gguf", {"inputs": inputs}
        out[name] = r
        if not os.path.exists(maps) and log.get(f"{name} maps", [program, "calibrate", "--only", "predict", "-m", a.model, "--aux", aux, "-f", a.text, "--inputs", inputs,
                                                                "--map-type", a.map_type, "-c", "256", "-o", maps, "--json"]) is None:
            continue
        base = ["-m", a.model, "--aux", aux, "--profile", maps]
        if a.prose:
            r["kl"] = log.get(f"{name} kl", [program, "eval", "predict", *base, "-f", a.prose, "-t", "1", "--predict-newest", str(a.newest[-1]), "--limit", "40", "--json"])
        for which in ("context", "closed"):
            others = ",".join(str(l) for l in range(a.layers) if str(l) not in aux.split(":")[-1].split(","))
            alone = ["-m", a.model, "--skip", f"list:{others}"] if aux.startswith("layers:") else ["-m", aux]
            r[f"alone {which}"] = qa(f"{name} alone", which, *alone)
            for n in a.newest:
                r[f"predict {n} {which}"] = qa(f"{name} predict {n}", which, *base, "--prefill", "predict", "--predict-newest", str(n))
            r[f"hybrid {which}"] = qa(f"{name} hybrid {a.newest[0]}", which, *base, "--prefill", "hybrid", "--refresh-at", "1", "--predict-newest", str(a.newest[0]))
    return exact, out


def tables(a, exact, out):
    print(f"| prompt by | " + " | ".join(f"{k}, {w}" for w in ("context", "closed") for k in ("alone", *(f"predict, {n} newest" for n in a.newest), "hybrid, exact from the 2nd token")) + " |")
    print("|---" * (1 + 2 * (2 + len(a.newest))) + "|")
    cells("the model itself", [x for w in ("context", "closed") for x in (right(exact[w]), *[""] * (1 + len(a.newest)))])
    for name, r in out.items():
        cells(f"`{name}`", [right(r.get(f"{k} {w}")) for w in ("context", "closed") for k in ("alone", *(f"predict {n}" for n in a.newest), "hybrid")])
    if not a.prose:
        return
    spans = ("1", "2", "3-4", "5-8", "9-16", "17-32")
    print("\n| auxiliary | TTFT, exact is 1 | first token | KL at " + " | ".join(spans) + " | attention error, first, middle and last layer |")
    print("|---" * (4 + len(spans)) + "|")
    for name, r in out.items():
        k = r.get("kl")
        if k:
            e = k["attention_error"]
            cells(f"`{name}`", [f"{k['predicted_ms'] / k['exact_ms']:.2f}", wilson(round(k["first_token"] * k["windows"]), k["windows"]), *(f"{k['kl'][s]:.3f}" for s in spans),
                                f"{e[0]:.2f}, {e[len(e) // 2]:.2f}, {e[-1]:.2f}"])


def chart(a, exact, out):
    """Share of right answers from the context against the time to the first token."""
    points = [("exact", 1.0, exact["context"], a.inputs)]
    points += [(n, r["kl"]["predicted_ms"] / r["kl"]["exact_ms"], r.get(f"predict {a.newest[0]} context"), r["inputs"]) for n, r in out.items() if r.get("kl")]
    points = [(n.removesuffix("-" + i), x, q["right"] / q["total"], i) for n, x, q, i in points if q]
    if not points:
        return
    ticks = 1 + int(max(x for _, x, *_ in points) / 0.25)

    def at(x, y):
        return 60 + 520 * x / (0.25 * ticks), 320 - 280 * y
    s = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 380" font-family="sans-serif" font-size="12">', '<rect width="640" height="380" fill="white"/>',
         '<text x="320" y="20" text-anchor="middle" font-size="14">KV prediction: answers from the context against the time to the first token</text>']
    for i in range(6):
        y = at(0, i / 5)[1]
        s.append(f'<path d="M60 {y:.0f}H580" stroke="#ddd"/><text x="52" y="{y + 4:.0f}" text-anchor="end">{20 * i} %</text>')
    for i in range(ticks + 1):
        x = at(0.25 * i, 0)[0]
        s.append(f'<path d="M{x:.0f} 40V320" stroke="#ddd"/><text x="{x:.0f}" y="336" text-anchor="middle">{0.25 * i:.2f}</text>')
    colour = {x: c for x, c in zip(sorted({x for *_, x in points}), ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3"))}
    for i, (name, px, py, inputs) in enumerate(points):
        (x, y), c = at(px, py), colour[inputs]
        side = f'x="{x + 7:.1f}"' if i % 3 == 0 and i else f'x="{x - 7:.1f}" text-anchor="end"'    # so that names seldom meet
        place = f'{side} y="{y - 7 if c == "#1f77b4" else y + 14:.1f}"'
        s.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{c}"/><text {place} fill="{c}">{name}</text>')
    for i, (inputs, c) in enumerate(sorted(colour.items())):
        s.append(f'<text x="70" y="{58 + 16 * i}" fill="{c}">maps from inputs "{inputs}"</text>')
    s.append('<text x="320" y="364" text-anchor="middle">time to the first token, that of the exact prompt is 1</text></svg>')
    with open(a.svg, "w") as f:
        f.write("\n".join(s) + "\n")


def main():
    p = argparse.ArgumentParser()
    for name in ("model", "text", "qa"):
        p.add_argument(name)
    p.add_argument("--aux", action="append", required=True)
    for name in ("maps", "log"):
        p.add_argument("--" + name, required=True)
    for name, value in (("bin", "build/release"), ("prose", ""), ("svg", ""), ("newest", "32,8"), ("inputs", "near"), ("map-type", "f16")):
        p.add_argument("--" + name, default=value)
    for name, value in (("limit", 0), ("seconds", 1 << 30)):
        p.add_argument("--" + name, type=int, default=value)
    a = p.parse_args()
    a.aux = [x.split("=", 1) for x in a.aux]
    a.newest = [int(x) for x in a.newest.split(",")]
    info = subprocess.run([a.bin + "/sluice", "model", "info", a.model, "--json"], stdout=subprocess.PIPE, text=True).stdout
    a.layers = next(int(v) for k, v in json.loads(info)["keys"].items() if k.endswith(".block_count"))
    exact, out = measure(a, Log(a.log, a.seconds))
    tables(a, exact, out)
    if a.svg:
        chart(a, exact, out)


main()
