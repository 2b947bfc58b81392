"""Fast search for BERT-style decoders with cross-attention (BLIP): same captions, less time.

`transformers.generate` spends most of a small decoder's time on what surrounds the arithmetic.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def greedy_search(
    decoder: Any, features: "torch.Tensor", *, bos: int, eos: int, max_new_tokens: int
) -> tuple[list[list[int]], list[float]]:
    """Most probable next token until `eos`: token ids without bos and eos, and log-probabilities.

    decoder: a BlipTextLMHeadModel, with or without adapters in its linear layers.
    features: encoder outputs (n, L, D). Log-probabilities are sums of natural logs, eos included.
    """
    import torch

    bert, device = decoder.bert, features.device
    embeddings, layers = bert.embeddings, bert.encoder.layer
    heads = decoder.config.num_attention_heads
    attend = torch.nn.functional.scaled_dot_product_attention

    def split(states: "torch.Tensor") -> "torch.Tensor":  # (n, T, D) -> (n, heads, T, D / heads)
        return states.view(*states.shape[:-1], heads, -1).transpose(1, 2)

    n = len(features)
    attended = [x.crossattention.self for x in layers]
    seen = [
        (split(x.key(features)).contiguous(), split(x.value(features)).contiguous())
        for x in attended
    ]
    written = [
        [k.new_empty((n, k.shape[1], max_new_tokens, k.shape[3])) for _ in range(2)]
        for k, _ in seen
    ]
    tokens: list[list[int]] = [[] for _ in range(n)]
    logprobs = [0.0] * n
    rows = list(range(n))  # which photo a row of the batch is
    alive = torch.ones(n, dtype=torch.bool, device=device)
    ids = torch.full((n,), bos, device=device)
    for t in range(max_new_tokens):
        x = embeddings.word_embeddings(ids) + embeddings.position_embeddings.weight[t]
        x = embeddings.dropout(embeddings.LayerNorm(x))[:, None]  # (n, 1, D)
        for layer, (keys, values), (k, v) in zip(layers, seen, written, strict=True):
            own, cross = layer.attention, layer.crossattention
            k[:, :, t] = split(own.self.key(x))[:, :, 0]
            v[:, :, t] = split(own.self.value(x))[:, :, 0]
            y = attend(split(own.self.query(x)), k[:, :, : t + 1], v[:, :, : t + 1])
            x = own.output(y.transpose(1, 2).flatten(2), x)
            y = attend(split(cross.self.query(x)), keys, values)
            x = cross.output(y.transpose(1, 2).flatten(2), x)
            x = layer.feed_forward_chunk(x)
        logits = decoder.cls(x[:, 0]).float()  # (n, V)
        best, ids = logits.max(-1)
        gained = (best - logits.logsumexp(-1)).tolist()
        for row, (token, going) in enumerate(zip(ids.tolist(), alive.tolist(), strict=True)):
            if going:
                logprobs[rows[row]] += gained[row]
                if token != eos:
                    tokens[rows[row]].append(token)
        alive &= ids != eos
        left = int(alive.sum())
        if left == 0:
            break
        if left <= len(rows) // 2:
            # Sentences end at different lengths: go on with the unfinished ones alone.
            keep = alive.nonzero()[:, 0]
            rows = [rows[i] for i in keep.tolist()]
            seen = [(a[keep], b[keep]) for a, b in seen]
            written = [[a[keep] for a in pair] for pair in written]
            ids, alive = ids[keep], alive[keep]
    return tokens, logprobs


def beam_search(
    decoder: Any,
    features: "torch.Tensor",
    *,
    bos: int,
    eos: int,
    pad: int,
    beams: int,
    max_new_tokens: int,
) -> tuple[list[list[int]], list[float]]:
    """Beam search of `transformers.generate`; arguments and results as for `greedy_search`.

    The log-probability is the sentence's own, without the search's length penalty.
    """
    import torch
    from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig

    class SharedCrossAttention(EncoderDecoderCache):  # type: ignore[misc,unused-ignore]
        """All beams of a photo see the same photo: there is nothing to reorder."""

        def reorder_cache(self, beam_idx: "torch.Tensor") -> None:
            self.self_attention_cache.reorder_cache(beam_idx)

    start = torch.full((len(features), 1), bos, device=features.device)
    config = decoder.config
    sequences = decoder.generate(
        input_ids=start,
        attention_mask=torch.ones_like(start),
        encoder_hidden_states=features,
        past_key_values=SharedCrossAttention(
            DynamicCache(config=config), DynamicCache(config=config)
        ),
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            num_beams=beams,
            do_sample=False,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
        ),
    )
    targets = sequences[:, 1:]
    logits = decoder(input_ids=sequences[:, :-1], encoder_hidden_states=features).logits.float()
    chosen = logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)  # (n, T)
    ends = targets == eos
    counts = (ends.cumsum(1) - ends.int()) == 0  # up to and with the first end
    kept = counts & ~ends
    tokens = [row[own].tolist() for row, own in zip(targets, kept, strict=True)]
    return tokens, (chosen * counts).sum(1).tolist()
