"""Tokenizers: bytes, BPE trained on the corpus, or one from a folder or the hub.

All of them are a ``PreTrainedTokenizerFast`` that saves and loads with ``AutoTokenizer``. Those of
causal models pad left and end a document with ``eos_token``; those of masked models pad right, wrap
a text in ``[CLS] ... [SEP]``, have ``[MASK]``, and end a document with ``sep_token``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.errors import (
    CheckpointError,
    ConfigError,
    OfflineError,
    SpikeformersError,
)
from spikeformers.foreign import foreign, read_json, read_text, without_panic_messages

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from spikeformers.data.corpora import Corpus

logger = logging.getLogger(__name__)

END_OF_TEXT, CAUSAL_PAD = "<|endoftext|>", "<|pad|>"
# Role -> the tokens that may have it, best first; the first is added if the vocabulary has none.
_PADS = (CAUSAL_PAD, "<|padding|>", "<pad>", "[PAD]")
CAUSAL_ROLES = {"eos_token": (END_OF_TEXT, "</s>", "[SEP]"), "pad_token": _PADS}
MASKED_ROLES = {
    "pad_token": _PADS[::-1],
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
}
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def make_tokenizer(
    spec: str, corpus: Corpus | None = None, *, masked: bool = False
) -> PreTrainedTokenizerFast:
    """Tokenizer for ``spec``: ``"byte"``, ``"bpe:4096"``, a folder, or a name on the hub.

    ``corpus`` (its train split) is read only for ``bpe:N``. Raises ConfigError for an unknown spec,
    and OfflineError if the hub cannot be reached.
    """
    if spec == "byte":
        return _wrap(_byte_level({}, [], one_piece=True), masked=masked, origin=spec, roles={})
    kind, _, size = spec.partition(":")
    if kind == "bpe":
        if not size.isdecimal():
            raise ConfigError(f"tokenizer {spec!r}: bpe needs a vocabulary size, as in bpe:4096.")
        if corpus is None:
            raise ConfigError(f"tokenizer {spec!r} is trained on a corpus, and none was given.")
        return _wrap(_train_bpe(int(size), corpus, masked), masked=masked, origin=spec, roles={})
    folder = Path(spec).expanduser()
    if folder.is_dir():
        backend, roles = _load_folder(folder)
        unusable = f"the tokenizer in {folder} cannot be used"
        with foreign(unusable, ConfigError), without_panic_messages():
            wrapped = _wrap(backend, masked=masked, origin=str(folder), roles=roles)
            _try_out(wrapped)
        return wrapped
    if folder.exists() or spec.startswith((".", "/", "~")) or "\\" in spec or spec.count("/") > 1:
        raise ConfigError(
            f"tokenizer {spec!r}: no such folder. Give byte, bpe:SIZE, a folder with a "
            "tokenizer.json, or a name on the Hugging Face hub."
        )
    return _from_hub(spec, masked)


def load_tokenizer(
    source: str | Path, error: type[SpikeformersError] = CheckpointError, **options: Any
) -> Any:
    """The tokenizer that Transformers makes of ``source``, tried on its own tokens.

    ``options`` are passed to Transformers. Raises ``error``, in one line, for files that make no
    usable tokenizer.
    """
    from transformers import AutoTokenizer

    advice = "Copy the tokenizer files again, or save them again with save_pretrained()."
    with (
        foreign(f"{source}: the tokenizer cannot be read", error, advice),
        without_panic_messages(),
    ):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        _try_out(tokenizer)
    return tokenizer


def _try_out(tokenizer: Any) -> None:
    """Encode and decode a few of its own tokens: some damage only appears then."""
    size = len(tokenizer)
    roles = [getattr(tokenizer, f"{role}_id") for role in ROLES]
    for role, number in zip(ROLES, roles, strict=True):
        if number is not None and type(number) is not int:
            raise ValueError(f"{role} is not one token but {number!r}")
    ids = [*range(min(size, 300)), *range(max(0, size - 8), size)]
    ids += [number for number in roles if number is not None]
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    for sample in (text, tokenizer.decode(ids, skip_special_tokens=True)):
        encoded = tokenizer(sample)["input_ids"]
        if not all(type(number) is int and number >= 0 for number in encoded):
            raise ValueError("it gives no token ids")
    tokenizer([text[:3], text[:9]], text_pair=[text[:9], text[:3]])


def check_vocabulary(tokenizer: Any, rows: int, name: object) -> None:
    """Raise ``CheckpointError`` if text may become a token that a model with ``rows`` lacks.

    Added tokens without a role are not checked: only their own name is encoded as them, and
    conversions of file formats add such tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = tokenizer.get_vocab() if backend is None else backend.get_vocab(with_added_tokens=False)
    roles = [getattr(tokenizer, f"{role}_id") for role in ROLES if role != "unk_token"]
    largest = max((*own.values(), *(number for number in roles if number is not None)), default=0)
    if largest >= rows:
        raise CheckpointError(
            f"{name}: its tokenizer has the token {largest:,}, and the model has embeddings for "
            f"{rows:,} tokens (0 to {rows - 1:,}), so the two do not belong together. Put the "
            "model's own tokenizer back, or call resize_token_embeddings() and save the model."
        )


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 (hex) of vocabulary, merges, rules and roles, without padding and truncation."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules["padding"] = rules["truncation"] = None
    roles = {role: getattr(tokenizer, role) for role in ROLES}
    text = json.dumps([rules, roles], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def separator_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Id of the token between documents: eos, or sep if there is no eos (BERT)."""
    for token_id in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if isinstance(token_id, int):
            return token_id
    raise ConfigError(
        "this tokenizer has neither an eos nor a sep token to put between documents. "
        "Make it with spikeformers.data.make_tokenizer, which adds one."
    )


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte 0..255 (GPT-2, encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(moved)) for byte in range(256)]


def _byte_level(
    vocab: dict[str, int], merges: list[tuple[str, str]], *, one_piece: bool = False
) -> Tokenizer:
    """Byte-level BPE; an empty vocabulary stands for the 256 bytes, ``id == byte``.

    ``one_piece``: do not split the text into words first, which makes no difference without merges.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = vocab or {character: byte for byte, character in enumerate(_byte_characters())}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=not one_piece
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _train_bpe(size: int, corpus: Corpus, masked: bool) -> Tokenizer:
    from tokenizers import trainers

    specials = MASKED_ROLES if masked else CAUSAL_ROLES  # one token per role
    least = 256 + len(specials)
    if size < least:
        raise ConfigError(
            f"bpe:{size} is too small: 256 bytes and {len(specials)} special tokens need {least}. "
            f"Give bpe:{least} or more, or byte."
        )
    backend = _byte_level({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(specials),  # the special tokens follow, as in GPT-2
        initial_alphabet=_byte_characters(),
        special_tokens=[],
        show_progress=False,
    )
    backend.train_from_iterator(corpus.documents("train"), trainer)
    trained_size = backend.get_vocab_size() + len(specials)
    if trained_size < size:
        logger.warning(
            "bpe:%d: the corpus has pairs for %d tokens only; the vocabulary is that large.",
            size,
            trained_size,
        )
    return backend


def _load_folder(folder: Path) -> tuple[Tokenizer, dict[str, str]]:
    """Backend and roles (``eos_token`` and so on) of the tokenizer files in ``folder``."""
    from tokenizers import Tokenizer

    named = folder / "tokenizer.json"
    candidates = [named] if named.is_file() else sorted(folder.glob("*tokenizer*.json"))
    candidates = [path for path in candidates if path.name != "tokenizer_config.json"]
    unreadable = f"the tokenizer files in {folder} cannot be read"
    if len(candidates) == 1:
        with foreign(unreadable, ConfigError), without_panic_messages():
            backend = Tokenizer.from_file(str(candidates[0]))
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines = read_text(folder / "merges.txt", ConfigError).splitlines()
        pairs = [tuple(line.split(" ")) for line in lines if not line.startswith("#version")]
        merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
        vocab = read_json(folder / "vocab.json", ConfigError)
        with foreign(unreadable, ConfigError), without_panic_messages():
            backend = _byte_level(vocab, merges)
    else:
        raise ConfigError(
            f"no tokenizer in {folder}: looked for tokenizer.json, and for vocab.json with "
            f"merges.txt, and found {sorted(p.name for p in folder.iterdir())[:8]}."
        )
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path, ConfigError) if config_path.is_file() else {}
    roles = {}
    for role in ROLES:
        value = config.get(role)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            roles[role] = value
    return backend, roles


def _from_hub(name: str, masked: bool) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    from spikeformers.data.hub import check_online

    check_online("models", name)
    absent = f"tokenizer {name!r} is not a folder here and did not come from the Hugging Face hub"
    advice = "Use byte, bpe:SIZE, or a folder with a tokenizer.json."
    with foreign(absent, OfflineError, advice), without_panic_messages():
        loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(f"tokenizer {name!r} has no fast version, which spikeformers needs.")
    roles = {role: getattr(loaded, role) for role in ROLES if getattr(loaded, role, None)}
    return _wrap(backend, masked=masked, origin=name, roles=roles)


def _wrap(
    backend: Tokenizer, *, masked: bool, origin: str, roles: dict[str, str]
) -> PreTrainedTokenizerFast:
    """The Transformers tokenizer around ``backend``, with every role that training needs."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    backend.no_padding()
    backend.no_truncation()
    before = backend.get_vocab_size()
    roles = {role: token for role, token in roles.items() if backend.token_to_id(token) is not None}
    for role, candidates in (MASKED_ROLES if masked else CAUSAL_ROLES).items():
        if role not in roles:
            roles[role] = next(
                (t for t in candidates if backend.token_to_id(t) is not None), candidates[0]
            )
    if not masked:
        roles.setdefault("bos_token", roles["eos_token"])
    for role, token in roles.items():
        eats_space = role == "mask_token" and _cuts_words(backend)
        backend.add_special_tokens([AddedToken(token, lstrip=eats_space, special=True)])
    added = backend.get_vocab_size() - before
    if added and origin != "byte" and not origin.startswith("bpe:"):
        logger.info("tokenizer %s: added %d special tokens that it lacked.", origin, added)

    adds_specials = backend.encode("a").ids != backend.encode("a", add_special_tokens=False).ids
    if adds_specials and not masked:  # a prompt must not end in [SEP]
        backend.post_processor = processors.TemplateProcessing(
            single="$A", pair="$A $B", special_tokens=[]
        )
    elif masked and not adds_specials:
        first, last = roles["cls_token"], roles["sep_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B {last}",
            special_tokens=[(t, backend.token_to_id(t)) for t in (first, last)],
        )
    # padding_side and model_input_names are saved only when given to the constructor.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side="right" if masked else "left",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **roles,
    )


def _cuts_words(backend: Tokenizer) -> bool:
    """Whether a word's token includes the preceding space, which a mask then replaces too."""
    rule = json.loads(backend.to_str())["pre_tokenizer"] or {}
    if rule.get("type") == "Sequence":
        return any(part.get("type") == "ByteLevel" for part in rule["pretokenizers"])
    return rule.get("type") == "ByteLevel" and bool(rule.get("use_regex", True))
