"""The PTB tokenizer of the COCO caption evaluation: its Java original, and a twin in Python.

Tokens are Penn Treebank's, lower-cased, without a fixed list of punctuation. Because lower-casing
comes first, brackets turn into `-lrb-` and stay, as in the original.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np

from caption import InputError
from caption.metrics.jvm import JavaError, jar_folder, java_memory, run_java

JAR_SIGNATURE = "ptb-jar-3.4.1"
PYTHON_SIGNATURE = "ptb-python-1"

_REMOVED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))


@dataclass(frozen=True)
class Tokenized:
    """A corpus after the tokenizer, words joined by single spaces."""

    hypotheses: list[str]
    references: list[list[str]]
    signature: str
    """Which tokenizer ran, and how many captions held characters it had to replace."""


def tokenize_corpus(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "auto"
) -> Tokenized:
    """Tokenize both sides in one run; `tokenizer` as in `tokenize`."""
    texts = [*hypotheses, *chain.from_iterable(references)]
    words, signature = tokenize(texts, tokenizer)
    ends = accumulate(map(len, references), initial=len(hypotheses))
    refs = [words[start:end] for start, end in pairwise(ends)]
    return Tokenized(words[: len(hypotheses)], refs, signature)


def tokenize(texts: Sequence[str], tokenizer: str = "auto") -> tuple[list[str], str]:
    """Tokenized `texts`, and the signature of what ran.

    "jar" is Stanford's PTBTokenizer through Java, "python" its twin here, "auto" the jar where it
    runs and the twin elsewhere, "none" leaves the text as it is. Control characters and line breaks
    of any kind become spaces (they would shift every later line of the jar) and are counted.

    Raises `InputError` on an unknown `tokenizer`, and on "jar" where Java cannot run it.
    """
    if tokenizer not in ("auto", "jar", "python", "none"):
        raise InputError(f"tokenizer is {tokenizer!r}: expected auto, jar, python or none")
    clean, replaced = _clean(texts)
    note = f"+{replaced}-cleaned" if replaced else ""
    if tokenizer == "none":
        return clean, "none" + note
    unique = list(dict.fromkeys(clean))
    if tokenizer != "python":
        try:
            known = dict(zip(unique, tokenize_java(unique), strict=True))
            return [known[text] for text in clean], JAR_SIGNATURE + note
        except JavaError as error:
            if tokenizer == "jar":
                raise InputError(f"tokenizer 'jar' cannot run ({error}): use 'python'") from error
    known = dict(zip(unique, tokenize_python(unique), strict=True))
    return [known[text] for text in clean], PYTHON_SIGNATURE + note


def tokenize_java(lines: Sequence[str], *, timeout: float | None = None) -> list[str]:
    """Tokens of each line, through the jar that pycocoevalcap brings.

    Lines must hold no line break. Raises `JavaError` without Java, on a failed run, a run over
    `timeout` seconds (default: 120 and 1 more for 10,000 characters), and when the number of lines
    in and out differs.
    """
    if not lines:
        return []
    # A final "P." loses its point when the next line begins with a word like "The", a final "No."
    # keeps it before a digit: the lexer looks across lines. A line of its own keeps them apart.
    guarded = np.array([bool(_OPEN_END(line)) for line in lines])
    text = "".join(
        f"{line}\nx\n" if guard else f"{line}\n" for line, guard in zip(lines, guarded, strict=True)
    )
    out = run_java(
        [jar_folder("tokenizer") / "stanford-corenlp-3.4.1.jar"],
        "edu.stanford.nlp.process.PTBTokenizer",
        ("-preserveLines", "-lowerCase", "-encoding", "UTF-8"),
        stdin=text.encode(),
        memory=java_memory(None, "512m"),
        timeout=timeout or 120 + len(text) / 10_000,
    )
    tokens = out.decode("utf-8", "replace").split("\n")[:-1]
    if len(tokens) != len(lines) + guarded.sum():
        n = len(lines) + int(guarded.sum())
        raise JavaError(f"the tokenizer was given {n} lines and answered {len(tokens)}")
    rows = np.arange(len(lines)) + np.cumsum(guarded) - guarded
    return [_join(tokens[row].rstrip().split(" ")) for row in rows.tolist()]


def tokenize_python(lines: Sequence[str]) -> list[str]:
    """Tokens of each line, by rules that follow the jar's behaviour; see the module's tests.

    Almost every token ends at white space, so a line is looked up word by word; only what may span
    white space (a whole number before a fraction, telephone numbers, tags) is searched for first.
    """
    if len(_WORDS) > 1 << 18:
        _WORDS.clear()
    get = _WORDS.__getitem__
    out = [" ".join(filter(None, map(get, line.split()))) for line in lines]
    for i, tokens in enumerate(out):
        if _OPEN in tokens:
            spans = _SPANS.search(lines[i])
            out[i] = _spanning(lines[i]) if spans else tokens.replace(_OPEN, "")
    return out


class _Words(dict[str, str]):
    """Tokens of a word between white space, computed once; `_OPEN` marks one that may span it."""

    def __missing__(self, word: str) -> str:
        plain = _PLAIN(word)
        if plain:  # most words: no need to try every rule
            body = plain[1].lower()
            tokens = _SPLIT.get(body, body)
            if plain[2] == "." and _ABBREVIATION(body):
                tokens += "."
        else:
            tokens = _join(_lex(word))
        self[word] = tokens = (_OPEN if _OPENS(word) else "") + tokens
        return tokens


_WORDS = _Words()
_OPEN = "\0"  # in no cleaned text


def _join(tokens: Sequence[str]) -> str:
    return " ".join(token for token in tokens if token not in _REMOVED)


def _spanning(line: str) -> str:
    out, end = [], 0
    for found in _SPANS.finditer(line):
        out += [_WORDS[word] for word in line[end : found.start()].split()]
        out.append(_WHITE.sub("\u00a0", _escape(found[0])).lower())
        end = found.end()
    out += [_WORDS[word] for word in line[end:].split()]
    return " ".join(filter(None, (tokens.removeprefix(_OPEN) for tokens in out)))


def _lex(word: str) -> list[str]:
    """Tokens of one word: at each place the longest match, the earlier rule on a tie."""
    tokens, at = [], 0
    while at < len(word):
        best, end, reach = None, at, at
        for rule in _RULES:
            found = rule(word, at, at + _LONGEST)
            if found and found.end() > reach:
                group = found.lastindex or 0  # a group is the token, the rest its right context
                best, end, reach = found[group], found.end(group), found.end()
        if best is None:
            at += 1  # no token begins here: an unknown symbol, which the jar drops too
            continue
        tokens.append(_normal(best.lower()))
        at = end
    return tokens


def _normal(token: str) -> str:
    if token in _NORMAL:
        return _NORMAL[token]
    if _CLITIC(token):
        return token.replace("’", "'")
    if token.startswith("...") or token in ("---", "----"):
        return "-"
    return _escape(token).replace("&amp;", "&")


def _escape(token: str) -> str:
    for char, name in _BRACKETS.items():
        if char in token and (token == char or char in "()"):
            token = token.replace(char, name)
    return token.replace("\u00ad", "")


def _clean(texts: Sequence[str]) -> tuple[list[str], int]:
    """`texts` on one line each without control characters, and how many held some."""
    if all(map(str.isprintable, texts)):
        return list(texts), 0
    clean = [
        text if text.isprintable() else _LINE_BREAK.sub(" ", _CONTROL.sub(" ", text))
        for text in texts
    ]
    return clean, sum(1 for text in texts if not text.isprintable() and _CONTROL.search(text))


_LONGEST = 200  # characters of a token; keeps 100,000 characters without white space affordable
_LINE_BREAK = re.compile(r"[\t\n\r]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NUMBERED = "nos?|pp?|art|figs?|ca|op|prop"  # abbreviations where a number follows
_OPEN_END = re.compile(rf"(?<![^\W_])(?:[a-z]|{_NUMBERED})\.\s*$", re.IGNORECASE).search
_WHITE = re.compile(r"\s")

_STARTERS = (
    "A|About|According|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Now|"
    "Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|"
    "When|While|Yet|You"
)
_SPANS = re.compile(
    rf"""
    (?<![\w.,:/+-])(?:
      \(\d{{2,3}}\)\s?\d{{3,4}}[-\s]?\d{{3,5}}                                # (555) 123-4567
    | (?:\+{{0,2}}\d{{2,4}}[-\s])?\d{{2,4}}[-\s]\d{{3,4}}[-\s]?\d{{3,5}}(?![\w])  # 44 20 1234 5678
    | \d{{1,4}}[-\s]\d{{1,4}}/\d{{1,4}}                                       # 5 3/4
    )
    | </?[A-Za-z!?][^<>]{{0,200}}>                                        # <a href="x y">
    | (?<![\w-])(?:{_NUMBERED})\.(?=\s+\d)                           # no. 5
    | (?<![^\s("“‘])[a-z](?=\.\s+(?-i:{_STARTERS})(?!\S))                      # size m. The
    """,
    re.VERBOSE | re.IGNORECASE,
)
_OPENS = re.compile(
    rf"<|(?<![\w.,:/+-])[+\d-]*\d\)?$|(?:^|\W)(?:[a-z]|{_NUMBERED})\.$", re.IGNORECASE
).search

_NO_LETTER = "²³¹¼½¾\u2070-\u209f\u2150-\u215e\u2460-\u249b\u2776-\u2793"
_A = rf"(?:[^\W\d_{_NO_LETTER}]|[\u0300-\u036f\u00ad])"
_L = rf"(?:[^\W_{_NO_LETTER}]|[\u0300-\u036f\u00ad])"
_HYPHEN = "[-\u058a\u2010\u2011]"
_Q = "['’]"
_WORD = rf"{_L}+(?:_{_L}+)*"
_TAIL = rf"(?:{_HYPHEN}{_WORD})*"
_ABBREVIATIONS = (
    "adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif "
    "capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq "
    "est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan "
    "kans ky lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg "
    "natl neb nev nov oct okla penn pfc ph ph\\.d plc ppte ppty pres prof pte ptes pty ptys pvt "
    "rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs "
    "tue tues univ va vs vt wed wis wisc wm wyo [a-z]"
).replace(" ", "|")
_ABBREVIATION = re.compile(_ABBREVIATIONS).fullmatch
_PLAIN = re.compile(r"([A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)([,.;:!?]?)").fullmatch
_SPLIT = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "lemme": "lem me",
    "gimme": "gim me",
    "wanna": "wan na",
}
_SYMBOLS = (
    "!-/:-@\\[-`{-~¡¢£¤¥-©¬®-´¶-¹¿×÷¼-¾¤\u201a\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044"
    "\u2016\u2017\u2070\u2074-\u207e\u2080-\u208e\u20a0\u20a4\u20ac\u2100-\u214f\u2150-\u215e"
    "\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)

_RULES = [
    re.compile(rule, re.IGNORECASE).match
    for rule in (
        # Contractions and what a clitic leaves before it.
        rf"({_L}+)n['’`]t(?!{_L})",
        rf"['’](?:s|m|d|n|ll|re|ve)(?!{_L})",
        rf"([dljy]['’])(?={_L})(?!(?:s|m|d|n|ll|re|ve)(?!{_L}))",
        rf"'(?:em|til|till|cause)(?!{_L})|['’][2-9]0s(?!{_L})|'\d\d(?!\S)|['’]n['’]|dunkin'|somethin'|ol'|c\+\+",
        rf"('t)(?:is|was)(?!{_L})",
        *(rf"({first}){second}(?!{_L})" for first, second in map(str.split, _SPLIT.values())),
        # Words: with internal hyphens, slashes, apostrophes; letters joined by a point or mark.
        _WORD + _TAIL,
        r"[a-z0-9]+(?:-[a-z0-9]+)*(?:/[a-z0-9]+(?:-[a-z0-9]+)*){1,2}",
        rf"{_A}{_L}*(?:[.!?]{_A}{_L}*)+",
        r"[a-z0-9]+(?:[.,][a-z0-9]+)+(?:-[a-z0-9]+)+",
        rf"(?:{_A}\.)+{_A}\.",
        rf"(?-i:[A-HK-XZn])['’]{_A}{{2,}}{_TAIL}",
        rf"[dlo]['’]{_A}{{2,}}{_TAIL}",
        rf"{_A}+[aeiouy]['’][aeiou]{_A}*{_TAIL}",
        rf"o['’]clock{_TAIL}|c['’]mon|n['’]t(?!{_L})",
        r"(?-i:[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)",
        # Abbreviations keep their point.
        rf"(?:{_ABBREVIATIONS})\.(?!{_A})",
        rf"(?:{_NUMBERED})\.(?=\d)",
        rf"({_A}+\.)(?=[,;:])",
        # Numbers, with or without a unit behind a hyphen.
        r"[-+]?(?:\d*(?:[.,:]\d+)+|\d+)",
        rf"\d+{_HYPHEN}\d+/\d+|\d+/\d+(?:{_HYPHEN}{_WORD})+",
        # Addresses, tags, entities, smileys.
        r"(?:https?://|www\.)[^\s\"<>|()]+[^\s\"<>|.!?(){},;:'-]",
        r"[\w.+-]*\w@\w+(?:[\w.-]*\w)?",
        r"[@#][a-z]\w*|@_\w+",
        r"&(?:amp|lt|gt|quot|apos|nbsp|[mn]dash|\#\d+|[a-z]{1,2}(?:acute|grave|uml|circ|tilde));",
        rf"[:;=]{_Q}?-?[()dp\]](?!{_L})",
        r"(?-i:US|HK|NZ|AU|CA|[A-Z])\$",
        # Runs that stay together, then any other symbol by itself.
        r"[?!]+|-{2,}|\.{3,}|\*+|_+|\#{2,}|@{2,}|<<|>>|''|``",
        rf"[{_SYMBOLS}‘’‛‹›“”«»‘–—―…]",
    )
]
_CLITIC = re.compile("(?:n?’t|’(?:s|m|d|n|ll|re|ve))$").match
_BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}
_NORMAL = {
    "£": "#",
    "¢": "cents",
    "½": "1/2",
    "¼": "1/4",
    "¾": "3/4",
    "⅓": "1/3",
    "⅔": "2/3",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    **dict.fromkeys("€¤₠", "$"),
    # Whatever the removed punctuation is called makes no difference.
    **dict.fromkeys(("&nbsp;", "&quot;", "&apos;", "&mdash;", "&ndash;"), "-"),
    **dict.fromkeys('"‘’‛‹›“”«»–—―…\u00ad', "-"),
}
