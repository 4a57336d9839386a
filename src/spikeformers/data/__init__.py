"""Text in, windows of tokens out: corpora, tokenizers, the token store, sampling, masking."""

from spikeformers.data.corpora import Corpus, load_corpus, stream_corpus
from spikeformers.data.masking import mask_tokens
from spikeformers.data.sampling import WindowSampler, batch, consecutive_starts
from spikeformers.data.sharding import read_store_tokenizer, tokenize_shards
from spikeformers.data.store import TokenSplit, TokenStore, default_cache_dir, tokenize_corpus
from spikeformers.data.tokenizers import make_tokenizer

__all__ = [
    "Corpus",
    "TokenSplit",
    "TokenStore",
    "WindowSampler",
    "batch",
    "consecutive_starts",
    "default_cache_dir",
    "load_corpus",
    "make_tokenizer",
    "mask_tokens",
    "read_store_tokenizer",
    "stream_corpus",
    "tokenize_corpus",
    "tokenize_shards",
]
