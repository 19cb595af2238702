"""What requests and answers look like; FastAPI checks requests against these and describes them at ``/docs``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MOST_CANDIDATES = 1000
MOST_TARGETS = 1000
MOST_BEAM = 64


def _checked(text: str) -> str:
    if "\0" in text:
        raise ValueError("a text must have no NUL character; remove it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("a text must have no half of a surrogate pair; remove it")
    return text


Text = Annotated[str, AfterValidator(_checked)]
TopK = Annotated[int, Field(ge=1, le=MOST_CANDIDATES)]
Targets = Annotated[list[Text], Field(min_length=1, max_length=MOST_TARGETS)]
Ranking = Literal["joint", "independent"]


class Request(BaseModel):
    """What all requests share: no unknown field, no conversion between types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ModelRequest(Request):
    """A request that names its model."""

    model: str | None = Field(None, description="Name of a model of /models; by default the first.")


class FillMaskParameters(Request):
    """Parameters of the fill-mask task of Hugging Face."""

    top_k: TopK = 5
    targets: Targets | None = Field(
        None, description="Score these words instead of searching the vocabulary."
    )


class FillMaskRequest(Request):
    """The request of the fill-mask task of Hugging Face."""

    inputs: Text | list[Text] = Field(
        description="One text or several, each with one or several mask tokens."
    )
    parameters: FillMaskParameters = FillMaskParameters()
    options: dict[str, Any] | None = Field(
        None, description="Options of Hugging Face's own servers; not used."
    )


class MaskCandidate(BaseModel):
    """One candidate for one mask, as the fill-mask task of Hugging Face returns it.

    ``score`` is a probability, 0 to 1; ``token`` the id of the (first) token; ``sequence`` the text with this mask filled.
    """

    score: float
    token: int
    token_str: str
    sequence: str


class FillParameters(FillMaskParameters):
    """Options of ``unmask fill``."""

    ranking: Ranking = "joint"
    beam: int | None = Field(None, ge=1, le=MOST_BEAM)
    blanks: bool = Field(True, description="Whether ___, {2} and {1-4} are blanks for whole words, not text.")


class FillRequest(ModelRequest):
    """Texts to fill."""

    inputs: Text | list[Text] = Field(description="Texts with [MASK], <mask>, ___ or {1-4}.")
    parameters: FillParameters = FillParameters()


class ScoreParameters(Request):
    """Options of ``unmask score``."""

    method: Literal["original", "within_word_l2r", "whole_word", "estimate"] = "original"
    details: bool = Field(False, description="Whether to return the scores of tokens and words as well.")


class ScoreRequest(ModelRequest):
    """Texts to score."""

    inputs: Text | list[Text]
    parameters: ScoreParameters = ScoreParameters()


class ExplainParameters(Request):
    """Options of ``unmask explain``."""

    mask_positions: list[int] | None = Field(None, description="Mask exactly these tokens, counted from 0.")
    labels: Literal["masked", "all"] = "masked"
    seed: int = Field(0, ge=0, le=2**63 - 1)
    top_k: TopK = 5
    mask_rate: float = Field(0.15, gt=0, le=1)
    strategy: Literal["token", "word", "span"] = "token"


class ExplainRequest(ModelRequest):
    """One text to explain."""

    inputs: Text
    parameters: ExplainParameters = ExplainParameters()


class EmbeddingsRequest(ModelRequest):
    """The request of OpenAI's embeddings, and ``normalize``."""

    input: Text | list[Text] = Field(description="One text or several.")
    encoding_format: Literal["float", "base64"] = "float"
    normalize: bool = Field(False, description="Whether to scale each embedding to length 1.")
    dimensions: int | None = Field(None, description="Must be the size of the model's embeddings, if given.")
    user: str | None = Field(None, description="Not used.")


class ErrorAnswer(BaseModel):
    """An error, and the field of the request that caused it, if one did."""

    error: str
    field: str | None = None
