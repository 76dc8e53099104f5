"""BM25, the baseline without weights (Robertson and Zaragoza 2009, https://doi.org/10.1561/1500000019; Lucene's idf).

    s = sum over the words t of the context   idf(t) tf(t) / (tf(t) + k1 (1 - b + b l / l_mean))
    idf(t) = ln(1 + (N - df(t) + 1/2) / (df(t) + 1/2))

A candidate has l words, t among them tf(t) times. Of N documents df(t) have t, and they have l_mean words on average. A
word of the context counts once, however often it is there (k3 = 0 in the paper).
"""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import regex
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer

K1, B = 1.5, 0.75
# Scripts without spaces between words, and Hangul, whose words have endings.
RUN = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
PIECES = regex.compile(rf"(?P<run>[{RUN}]+)|(?:(?![{RUN}])\w)+")


def words(text: str) -> list[str]:
    """Split a text into words. A run of a script without spaces gives its characters and its pairs of neighbours.

    >>> words("下载FTV Player")
    ['下', '载', '下载', 'ftv', 'player']
    """
    found = []
    for piece in PIECES.finditer(unicodedata.normalize("NFKC", text).casefold()):
        run = piece["run"]
        found += [*run, *map("".join, pairwise(run))] if run else [piece[0]]
    return found


VECTORIZER = HashingVectorizer(analyzer=words, alternate_sign=False, norm=None)


def count(texts: Sequence[str]) -> csr_matrix:
    """Count the words of N texts, [N, 2^20]. A word's column is its hash, so that none is unknown."""
    return VECTORIZER.transform(texts)


class Bm25:
    """Weighs words by the documents they are in."""

    def __init__(self, documents: csr_matrix):
        """Take the statistics of the documents, which `count` has counted."""
        frequency = np.bincount(documents.indices, minlength=documents.shape[1])  # df
        self.idf = np.log1p((documents.shape[0] - frequency + 0.5) / (frequency + 0.5))
        self.mean_length = max(1.0, documents.sum() / documents.shape[0])

    def weights(self, candidates: csr_matrix) -> csr_matrix:
        """Return what every word of N candidates adds to their scores, [N, 2^20]."""
        lengths = np.asarray(candidates.sum(1)).ravel()  # [N]
        norms = K1 * (1 - B + B * lengths / self.mean_length)
        weighted = candidates.copy()
        weighted.data /= weighted.data + np.repeat(norms, np.diff(candidates.indptr))
        weighted.data *= self.idf[candidates.indices]
        return weighted


def scores(context: str, weights: csr_matrix) -> np.ndarray:
    """Score N candidates for a context, [N].

    >>> documents = count(["my cat", "my dog", "the red cat"])
    >>> scores("a cat!", Bm25(documents).weights(documents)).round(2)
    array([0.2 , 0.  , 0.17])
    """
    is_asked = np.zeros(weights.shape[1], bool)
    is_asked[count([context]).indices] = True
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))  # of each entry
    return np.bincount(rows, weights.data * is_asked[weights.indices], minlength=weights.shape[0])
