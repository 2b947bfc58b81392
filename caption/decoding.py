"""Searching a sentence token by token: greedy, beams, samples; and BLIP's decoder without overhead.

`transformers.generate` spends most of a small decoder's time on what surrounds the arithmetic, and
computes what the beams of a photo share once a beam.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch


class Session(Protocol):
    """A decoder in the middle of writing about some photos."""

    def feed(self, ids: "torch.Tensor") -> "torch.Tensor":
        """Next tokens (n, t) of every row -> float32 logits (n, t, V) of what follows each."""

    def select(self, rows: "torch.Tensor") -> None:
        """Go on with these rows (m,), in this order; a row may be taken several times."""


class Found(NamedTuple):
    """One written sentence."""

    tokens: list[int]
    """Without start and end."""
    logprob: float
    """Sum of natural-log probabilities, the end's included."""
    end: int | None
    """The token that ended it; None when it was cut at max_new_tokens."""


def greedy_search(
    session: Session, start: "torch.Tensor", *, ends: Sequence[int], max_new_tokens: int
) -> list[Found]:
    """Most probable next token until an end. start: (n, s) tokens that every sentence begins with.

    ends: tokens that end a sentence.
    """
    return _search(
        session, session.feed(start)[:, -1], ends, max_new_tokens, lambda x: x.argmax(-1)
    )


def sample_search(
    session: Session,
    start: "torch.Tensor",
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    n_samples: int,
    temperature: float,
    seed: int,
) -> list[Found]:
    """`n_samples` sentences a photo (n x n_samples, photo by photo) drawn from softmax(logits / T).

    Log-probabilities are those of temperature 1.
    """
    import torch

    logits = session.feed(start)[:, -1]
    copies = torch.arange(len(start), device=start.device).repeat_interleave(n_samples)
    session.select(copies)
    generator = torch.Generator(start.device).manual_seed(seed)

    def draw(x: "torch.Tensor") -> "torch.Tensor":
        chances = (x / temperature).softmax(-1)
        return torch.multinomial(chances, 1, generator=generator)[:, 0]

    return _search(session, logits[copies], ends, max_new_tokens, draw)


def _search(
    session: Session,
    logits: "torch.Tensor",
    ends: Sequence[int],
    max_new_tokens: int,
    choose: "Callable[[torch.Tensor], torch.Tensor]",
) -> list[Found]:
    import torch

    tokens: list[list[int]] = [[] for _ in range(len(logits))]
    logprobs = [0.0] * len(logits)
    ended: list[int | None] = [None] * len(logits)
    rows = list(range(len(logits)))  # which sentence a row of the batch is
    alive = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    for t in range(max_new_tokens):
        ids = choose(logits)  # (n,)
        gained = (logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
        for row, (token, going) in enumerate(zip(ids.tolist(), alive.tolist(), strict=True)):
            if going:
                logprobs[rows[row]] += gained[row]
                if token in ends:
                    ended[rows[row]] = token
                else:
                    tokens[rows[row]].append(token)
        for end in ends:
            alive &= ids != end
        left = int(alive.sum())
        if left == 0 or t + 1 == max_new_tokens:
            break
        if left <= len(rows) // 2:
            # Sentences end at different lengths: go on with the unfinished ones alone.
            keep = alive.nonzero()[:, 0]
            rows = [rows[i] for i in keep.tolist()]
            session.select(keep)
            ids, alive = ids[keep], alive[keep]
        logits = session.feed(ids[:, None])[:, -1]
    return [Found(*x) for x in zip(tokens, logprobs, ended, strict=True)]


def beam_search(
    session: Session,
    start: "torch.Tensor",
    *,
    ends: Sequence[int],
    beams: int,
    max_new_tokens: int,
) -> list[Found]:
    """The sentences `transformers.generate(num_beams=beams)` finds; arguments as `greedy_search`.

    Sentences are ranked by log-probability / tokens (length penalty 1), and a photo is done when
    its best open beam ranks below its worst finished one (`early_stopping=False`). Finished photos
    leave the batch.
    """
    import torch

    never = -1e9
    n, device = len(start), start.device
    logits = session.feed(start)[:, -1]
    spread = torch.arange(n, device=device).repeat_interleave(beams)
    session.select(spread)
    logits = logits[spread]
    width = max(2, 1 + len(ends)) * beams
    top = torch.arange(width, device=device) < beams
    stops = torch.tensor(list(ends), device=device)
    found: list[Found | None] = [None] * n
    photos = list(range(n))  # which photo a group of beams is
    open_tokens = torch.zeros((n, beams, 0), dtype=torch.int64, device=device)
    open_scores = torch.full((n, beams), never, device=device)
    open_scores[:, 0] = 0.0  # all beams start equal: only the first counts
    done_tokens = torch.zeros((n, beams, max_new_tokens), dtype=torch.int64, device=device)
    done_scores = torch.full((n, beams), never, device=device)  # log-probability / tokens
    done_lengths = torch.zeros((n, beams), dtype=torch.int64, device=device)
    for t in range(1, max_new_tokens + 1):
        last = t == max_new_tokens
        sums = logits.log_softmax(-1).view(-1, beams, logits.shape[-1]) + open_scores[..., None]
        best, where = sums.flatten(1).topk(width)  # (n, width)
        beam, token = where // logits.shape[-1], where % logits.shape[-1]
        longer = torch.cat([_take(open_tokens, beam), token[..., None]], 2)  # (n, width, t)
        stopped = torch.isin(token, stops) | last
        # Finished ones compete by their mean; only the first `beams` candidates may finish.
        ranks = torch.where(stopped & top, best / t, never)
        padded = torch.nn.functional.pad(longer, (0, max_new_tokens - t))
        done_scores, kept = torch.cat([done_scores, ranks], 1).topk(beams)
        done_tokens = _take(torch.cat([done_tokens, padded], 1), kept)
        lengths = torch.full_like(ranks, t, dtype=torch.int64)
        done_lengths = torch.cat([done_lengths, lengths], 1).gather(1, kept)
        open_scores, ahead = torch.where(stopped, best + never, best).topk(beams)
        open_tokens = _take(longer, ahead)
        # Finished for good: `beams` sentences are there, and no open one ranks above the last.
        full = (done_scores > never / 2).all(1)
        over = full & (open_scores[:, 0] / t <= done_scores[:, -1])
        if last:
            over = torch.ones_like(over)
        gone = over.tolist()
        for i in [i for i, out in enumerate(gone) if out]:
            length = int(done_lengths[i, 0])
            ids = done_tokens[i, 0, :length].tolist()
            end = ids.pop() if ids[-1] in ends else None
            found[photos[i]] = Found(ids, float(done_scores[i, 0]) * length, end)
        if all(gone):
            break
        keep = (~over).nonzero()[:, 0]
        photos = [photos[i] for i in keep.tolist()]
        source = beam.gather(1, ahead)[keep] + keep[:, None] * beams  # rows of the session
        open_tokens, open_scores = open_tokens[keep], open_scores[keep]
        done_tokens, done_scores = done_tokens[keep], done_scores[keep]
        done_lengths = done_lengths[keep]
        session.select(source.flatten())
        logits = session.feed(open_tokens[:, :, -1].reshape(-1, 1))[:, -1]
    return [f for f in found if f is not None]


def _take(sentences: "torch.Tensor", which: "torch.Tensor") -> "torch.Tensor":
    """Rows `which` (n, m) of (n, beams, T) -> (n, m, T)."""
    return sentences.gather(1, which[..., None].expand(-1, -1, sentences.shape[2]))


class BlipSession:
    """BLIP's text decoder: the keys and values of a photo are shared by all its sentences."""

    def __init__(
        self,
        decoder: Any,
        features: "torch.Tensor",
        room: int,
        *,
        prompt: "torch.Tensor | None" = None,
        prefix: "torch.Tensor | None" = None,
    ) -> None:
        """decoder: a BlipTextLMHeadModel; features: (n, L, D); room: tokens that will be fed.

        prompt: learned embeddings (P, D) in front of the first token. prefix: learned keys and
        values (layers, 2, heads, P, D / heads) in front of every layer's own.
        """
        self.decoder, self.room, self.prompt = decoder, room, prompt
        self.layers = decoder.bert.encoder.layer
        self.heads = decoder.config.num_attention_heads
        attended = [x.crossattention.self for x in self.layers]
        self.seen = [
            (
                self._split(x.key(features)).contiguous(),
                self._split(x.value(features)).contiguous(),
            )
            for x in attended
        ]
        self.owner = list(range(len(features)))  # photo of a row
        self.group = 1  # rows a photo, where all have equally many
        self.length = 0
        extra = len(prompt) if prompt is not None else 0
        extra += prefix.shape[3] if prefix is not None else 0
        self.room += extra
        self.written: list[list[torch.Tensor]] = []
        n = len(features)
        for number, (k, _) in enumerate(self.seen):
            pair = [k.new_empty((n, k.shape[1], self.room, k.shape[3])) for _ in range(2)]
            if prefix is not None:
                for buffer, learned in zip(pair, prefix[number], strict=True):
                    buffer[:, :, : prefix.shape[3]] = learned
            self.written.append(pair)
        if prefix is not None:
            self.length = prefix.shape[3]

    def feed(self, ids: "torch.Tensor") -> "torch.Tensor":
        import torch

        attend = torch.nn.functional.scaled_dot_product_attention
        embeddings = self.decoder.bert.embeddings
        t = ids.shape[1]
        x = embeddings.word_embeddings(ids)
        if self.prompt is not None:
            x = torch.cat([self.prompt.expand(len(x), -1, -1).to(x.dtype), x], 1)
            self.prompt = None
        a, b = self.length, self.length + x.shape[1]
        self.length = b
        mask = None
        if b - a > 1:
            places = torch.arange(b, device=ids.device)
            mask = places <= places[a:, None]  # (t, b): what came before, and itself
        x = x + embeddings.position_embeddings.weight[a:b]
        x = embeddings.dropout(embeddings.LayerNorm(x))  # (n, t, D)
        for layer, (keys, values), (k, v) in zip(self.layers, self.seen, self.written, strict=True):
            own, cross = layer.attention, layer.crossattention
            k[:, :, a:b] = self._split(own.self.key(x))
            v[:, :, a:b] = self._split(own.self.value(x))
            y = attend(self._split(own.self.query(x)), k[:, :, :b], v[:, :, :b], mask)
            x = own.output(y.transpose(1, 2).flatten(2), x)
            y = self._look(attend, self._split(cross.self.query(x)), keys, values)
            x = cross.output(y.transpose(1, 2).flatten(2), x)
            x = layer.feed_forward_chunk(x)
        logits: torch.Tensor = self.decoder.cls(x[:, -t:]).float()
        return logits

    def select(self, rows: "torch.Tensor") -> None:
        import torch

        owner = [self.owner[row] for row in rows.tolist()]
        photos = list(dict.fromkeys(owner))
        group = len(owner) // len(photos)
        if owner == [photo for photo in photos for _ in range(group)]:
            if len(photos) < len(self.seen[0][0]):
                own = torch.tensor(photos, device=rows.device)
                self.seen = [(a[own], b[own]) for a, b in self.seen]
            self.owner = [number for number in range(len(photos)) for _ in range(group)]
            self.group = group
        else:  # uneven: every row gets its own copy
            own = torch.tensor(owner, device=rows.device)
            self.seen = [(a[own], b[own]) for a, b in self.seen]
            self.owner = list(range(len(owner)))
            self.group = 1
        for pair in self.written:
            for i, old in enumerate(pair):
                pair[i] = old.new_empty((len(owner), *old.shape[1:]))
                pair[i][:, :, : self.length] = old[:, :, : self.length][rows]

    def _look(self, attend: Any, q: Any, keys: Any, values: Any) -> Any:
        """Cross-attention (n, heads, t, d): the rows of a photo are asked together."""
        if self.group == 1:
            return attend(q, keys, values)
        t = q.shape[2]
        together = q.unflatten(0, (-1, self.group)).transpose(1, 2).flatten(2, 3)
        y = attend(together, keys, values)
        return y.unflatten(2, (self.group, t)).transpose(1, 2).flatten(0, 1)

    def _split(self, states: "torch.Tensor") -> "torch.Tensor":
        """(n, T, D) -> (n, heads, T, D / heads)."""
        return states.view(*states.shape[:-1], self.heads, -1).transpose(1, 2)


class CachedSession:
    """A language model of transformers, fed with embeddings and its own cache."""

    def __init__(
        self,
        run: "Callable[[torch.Tensor, Any, int, torch.Tensor | None], torch.Tensor]",
        embed: "Callable[[torch.Tensor], torch.Tensor]",
        cache: Any,
        *,
        context: "torch.Tensor | None" = None,
        seen: "torch.Tensor | None" = None,
        start_stands_for_context: bool = False,
    ) -> None:
        """run(embeddings (n, t, D), cache, keep, seen) -> logits of the last `keep` positions.

        context: embeddings (n, P, D) in front of the first token. seen: encoder states (n, L, D)
        of cross-attention. start_stands_for_context: the first token that is fed has no embedding
        of its own; what follows it is predicted at the context's last position.
        """
        self.run, self.embed, self.cache = run, embed, cache
        self.context, self.seen = context, seen
        self.skip = start_stands_for_context
        self.owner: list[int] | None = None  # photo of a row; None: row i is of photo i

    def feed(self, ids: "torch.Tensor") -> "torch.Tensor":
        import torch

        x = self.embed(ids[:, 1:] if self.skip else ids)
        if self.context is not None:
            x = torch.cat([self.context.to(x.dtype), x], 1)
            self.context = None
        self.skip = False
        return self.run(x, self.cache, ids.shape[1], self.seen).float()

    def select(self, rows: "torch.Tensor") -> None:
        if self.seen is None:
            self.cache.reorder_cache(rows)
            return
        chosen = rows.tolist()
        owner = chosen if self.owner is None else [self.owner[row] for row in chosen]
        self.cache.self_attention_cache.reorder_cache(rows)
        if owner != self.owner:  # beams of one photo see the same photo: nothing to copy
            self.cache.cross_attention_cache.reorder_cache(rows)
            self.seen = self.seen[rows]
            self.owner = owner
