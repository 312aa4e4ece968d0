"""Text to token ids by a GGUF file's SentencePiece vocabulary (tokenizer.ggml.model "llama"): the best-scored pair of neighbours that is
a piece becomes one, until none is. `sluice tokenize` gives the same ids. Standard library only."""
import heapq

BYTE = 6                # token type of "<0x41>"
SPACE = "\u2581"


class Spm:
    def __init__(self, gguf):
        keys = gguf.keys
        if keys.get("tokenizer.ggml.model") != "llama":
            raise SystemExit("the model's tokenizer is no SentencePiece one")
        pieces, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
        self.id = {piece: i for i, piece in enumerate(pieces) if types[i] != BYTE}
        self.byte = {int(piece[3:5], 16): i for i, piece in enumerate(pieces) if types[i] == BYTE}
        self.score = keys["tokenizer.ggml.scores"]
        self.prefix = keys.get("tokenizer.ggml.add_space_prefix", True)
        self.bos = [keys["tokenizer.ggml.bos_token_id"]] if keys.get("tokenizer.ggml.add_bos_token", True) else []

    def merged(self, text):
        """Pieces behind all merges: a list of neighbours and a heap of pairs; a pair whose halves have changed is passed over."""
        part, after = list(text), list(range(1, len(text) + 1))
        before, heap = list(range(-1, len(text) - 1)), []

        def offer(i):
            k = after[i] if 0 <= i < len(part) else len(part)
            if i >= 0 and k < len(part) and part[i] + part[k] in self.id:
                whole = part[i] + part[k]
                heapq.heappush(heap, (-self.score[self.id[whole]], i, k, whole))
        for i in range(len(part)):
            offer(i)
        while heap:
            _, i, k, whole = heapq.heappop(heap)
            if part[i] is None or part[k] is None or after[i] != k or part[i] + part[k] != whole:
                continue
            part[i], part[k], after[i] = whole, None, after[k]
            if after[k] < len(part):
                before[after[k]] = i
            offer(before[i])
            offer(i)
        return [piece for piece in part if piece is not None]

    def encode(self, text):
        text = (SPACE if self.prefix and text else "") + text.replace(" ", SPACE)
        ids = []
        for piece in self.merged(text):
            if piece in self.id:
                ids.append(self.id[piece])
            else:
                ids += [self.byte[b] for b in piece.encode("utf8", "surrogateescape")]
        return ids
