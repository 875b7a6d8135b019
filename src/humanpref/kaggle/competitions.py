"""The competitions that the Kaggle commands and both kernels know, with the standard library only,
since the inference kernel contains a copy of this code."""

from collections.abc import Sequence
from dataclasses import dataclass

WINNERS = ("model_a", "model_b")
"""How a submission names the winner: A, B."""


@dataclass(frozen=True)
class Competition:
    """A competition whose rows are pairs of answers.

    Examples
    --------
    >>> COMPETITIONS[WSDM].cells([0.4, 0.5, 0.1]), COMPETITIONS[DEFAULT].cells([0.4, 0.5, 0.1])
    (['model_b'], [0.4, 0.5, 0.1])
    """

    slug: str
    """Its name at Kaggle."""
    train: str = "train.csv"
    test: str = "test.csv"
    """The names of its files; a name that ends in `.parquet` is a Parquet file."""
    sample: str = "sample_submission.csv"
    """The name of the sample submission, next to the test file."""
    format: str = "competition"
    """The format of its files, one of `humanpref.schema.FORMATS`. It is not left to detection:
    among tens of thousands of plain texts, some are JSON lists."""
    classes: int = 3
    """Number of classes; with 2, there are no ties."""
    submission: tuple[str, ...] = ("id", "winner_model_a", "winner_model_b", "winner_tie")
    """The columns of a submission, the id first: the probabilities of the classes, or the winner
    (`WINNERS`)."""

    @property
    def names_winner(self) -> bool:
        """Whether a submission names the winner instead of probabilities."""
        return len(self.submission) == 2

    @property
    def even(self) -> list[float]:
        """Equal probabilities of the classes, for A, B and tie."""
        return [1 / self.classes] * self.classes + [0.0] * (3 - self.classes)

    def cells(self, probabilities: Sequence[float]) -> list[float | str]:
        """Return the cells of a submission's row that follow the id, given the probabilities of A,
        B and tie. If A and B are equally likely, A is named."""
        if self.names_winner:
            return [WINNERS[probabilities[1] > probabilities[0]]]
        return list(probabilities)


DEFAULT = "llm-classification-finetuning"
LMSYS = "lmsys-chatbot-arena"
WSDM = "wsdm-cup-multilingual-chatbot-arena"

COMPETITIONS = {
    competition.slug: competition
    for competition in (
        Competition(DEFAULT),
        Competition(LMSYS),
        Competition(
            WSDM,
            train="train.parquet",
            test="test.parquet",
            format="wsdm",
            classes=2,
            submission=("id", "winner"),
        ),
    )
}
"""The competitions by slug."""
