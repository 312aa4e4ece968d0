"""A bundled model in PyTorch, with a gate on every layer (arXiv:2410.12513) and LoRA on its matrices (arXiv:2106.09685).

Rows of the prompt run every layer; behind it a layer's output is h' = rho layer(h) + (1 - rho) h, with one rho for a layer and a
sequence. (As the paper's first version prints it, h + rho f + (1 - rho) f, the gate has no effect and no gradient.) Only Llama's
architecture: RMS norms, interleaved RoPE, grouped queries, SwiGLU. Needs NumPy and PyTorch."""
import collections
import math

import torch
import torch.nn.functional as F

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
MASKED = -1e30


class Lora(torch.nn.Module):
    """y += scale B A x for the matrices of all layers; B begins as 0, so at first it changes nothing."""

    def __init__(self, model, rank, alpha):
        super().__init__()
        self.rank, self.alpha = rank, alpha
        self.a, self.b = torch.nn.ParameterDict(), torch.nn.ParameterDict()
        for layer, weights in enumerate(model.layers):
            for name in MATRICES:
                rows, columns = weights[name].shape
                self.a[f"{layer} {name}"] = torch.nn.Parameter(torch.randn(rank, columns) / math.sqrt(columns))
                self.b[f"{layer} {name}"] = torch.nn.Parameter(torch.zeros(rows, rank))

    def add(self, layer, name, x):
        key = f"{layer} {name}"
        return F.linear(F.linear(x, self.a[key]), self.b[key]) * (self.alpha / self.rank)


def rotate(x, cos, sin):
    pairs = x.unflatten(-1, (x.shape[-1] // 2, 2))
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), -1).flatten(-2)
    return x * cos + turned * sin


Place = collections.namedtuple("Place", "cos sin mask")


class Llama:
    def __init__(self, gguf):
        keys = gguf.keys
        if keys["general.architecture"] != "llama":
            raise SystemExit(f"architecture {keys['general.architecture']}: this is for llama")
        self.width, self.count = keys["llama.embedding_length"], keys["llama.block_count"]
        self.heads, self.kv_heads = keys["llama.attention.head_count"], keys["llama.attention.head_count_kv"]
        self.eps, self.base = keys["llama.attention.layer_norm_rms_epsilon"], keys.get("llama.rope.freq_base", 10000.0)
        self.head = self.width // self.heads

        def tensor(name):
            return torch.from_numpy(gguf.tensor(name))
        self.embedding, self.norm = tensor("token_embd.weight"), tensor("output_norm.weight")
        self.output = tensor("output.weight") if "output.weight" in gguf.info else self.embedding
        self.layers = [{name: tensor(f"blk.{layer}.{name}.weight") for name in MATRICES + ("attn_norm", "ffn_norm")}
                       for layer in range(self.count)]

    def rms(self, x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight

    def linear(self, layer, name, x, lora):
        y = F.linear(x, self.layers[layer][name])
        return y if lora is None else y + lora.add(layer, name, x)

    def attention(self, layer, x, place, earlier, lora):
        """x [batch, rows, width] sees `earlier`, (k, v) of the prompt's rows, and itself; returns what is added, and its own (k, v)."""
        batch, length, _ = x.shape
        group = self.heads // self.kv_heads
        q = rotate(self.linear(layer, "attn_q", x, lora).view(batch, length, self.heads, self.head), place.cos, place.sin)
        k = rotate(self.linear(layer, "attn_k", x, lora).view(batch, length, self.kv_heads, self.head), place.cos, place.sin)
        v = self.linear(layer, "attn_v", x, lora).view(batch, length, self.kv_heads, self.head)
        keys, values = (k, v) if earlier is None else (torch.cat((earlier[0], k), 1), torch.cat((earlier[1], v), 1))
        q = q.view(batch, length, self.kv_heads, group, self.head).permute(0, 2, 3, 1, 4)
        scores = q @ keys.permute(0, 2, 3, 1)[:, :, None] / math.sqrt(self.head) + place.mask[:, None, None]
        out = scores.softmax(-1) @ values.transpose(1, 2)[:, :, None]
        return self.linear(layer, "attn_output", out.permute(0, 3, 1, 2, 4).reshape(batch, length, -1), lora), (k, v)

    def layer(self, layer, h, place, earlier, lora):
        weights = self.layers[layer]
        added, own = self.attention(layer, self.rms(h, weights["attn_norm"]), place, earlier, lora)
        h = h + added
        x = self.rms(h, weights["ffn_norm"])
        inner = F.silu(self.linear(layer, "ffn_gate", x, lora)) * self.linear(layer, "ffn_up", x, lora)
        return h + self.linear(layer, "ffn_down", inner, lora), own

    def place(self, first, length, before):
        """Of rows at positions first[i] + 0 .. length - 1, behind `before` padded rows of which first[i] are there."""
        at = first[:, None] + torch.arange(length)
        angle = at[..., None] * self.base ** (-torch.arange(0, self.head, 2) / self.head)
        angle = angle.repeat_interleave(2, -1)[:, :, None]
        hidden = torch.arange(before) >= first[:, None]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        both = torch.cat((hidden[:, None].expand(-1, length, -1), later.expand(len(first), -1, -1)), 2)
        return Place(angle.cos(), angle.sin(), both.float() * MASKED)

    def read_prompts(self, tokens, weights, lora=None):
        """tokens [batch, rows] through all layers: layer inputs divided by their root mean squares and pooled by weights [batch, rows],
        [batch, layers, width], and (k, v) of every layer."""
        place = self.place(torch.zeros(len(tokens), dtype=torch.long), tokens.shape[1], 0)
        h, pooled, rows = self.embedding[tokens], [], []
        for layer in range(self.count):
            pooled.append((h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps) * weights[..., None]).sum(1))
            h, own = self.layer(layer, h, place, None, lora)
            rows.append(own)
        return torch.stack(pooled, 1), rows

    def read_behind(self, tokens, first, rows, rho=None, lora=None):
        """Logits [batch, rows, vocabulary] of tokens behind prompts of first [batch] tokens; rho [batch, layers] gates their layers."""
        place = self.place(first, tokens.shape[1], rows[0][0].shape[1])
        h = self.embedding[tokens]
        for layer in range(self.count):
            out, _ = self.layer(layer, h, place, rows[layer], lora)
            h = out if rho is None else rho[:, layer, None, None] * out + (1 - rho[:, layer, None, None]) * h
        return F.linear(self.rms(h, self.norm), self.output)
