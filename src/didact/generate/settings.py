"""Settings that several strategies have: one type each, with its bounds and its line of description."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Teacher = Annotated[str, Field(description="which of the recipe's teachers; the first unless given")]
Seeds = Annotated[
    str,
    Field(description='seed tasks: a file in any known format or of bare lines, "built" for the run\'s own, or ours'),
]
Licence = Annotated[str, Field(description="licence of what is generated; the terms of the teacher decide it")]
Temperature = Annotated[float, Field(ge=0, description="sampling temperature; 0 is greedy")]
TopP = Annotated[float, Field(gt=0, le=1, description="share of probability sampled from")]
MaxTokens = Annotated[int, Field(ge=1, description="longest answer in tokens")]

Exemplars = Annotated[int, Field(ge=1, description="seed tasks shown in a prompt")]
PromptsPerRound = Annotated[
    int, Field(ge=1, description="prompts drawn before any is answered; more use more slots, and change what is made")
]
RoundsInVain = Annotated[int, Field(ge=1, description="rounds without anything new after which it ends")]
Novelty = Annotated[
    float, Field(ge=0, lt=1, description="ROUGE-L F with seeds and kept ones above which one is dropped")
]
Case = Annotated[
    Literal["first", "original"],
    Field(description="first: the first letter becomes large; original: the code of 2022 also makes all others small"),
]
MinWords = Annotated[int, Field(ge=0, description="an instruction of so many words or fewer is dropped")]
MaxWords = Annotated[int, Field(ge=1, description="an instruction of more words is dropped")]
Keywords = Annotated[
    list[str], Field(description="instructions with one of these words need more than text, and are dropped")
]
