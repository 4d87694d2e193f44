"""What lessons show of the pages: a question, its answer with the reason in short, or the answer alone in a line.

A question is named by its page and its id, such as `03_exercise/conv1-trained`, or of a quiz by its number,
`04_sorting/quiz-1`.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from questions import Asked, Observed, Quiz, amount
from wording import as_html, first_sentences

WORDS_OF_REASON = 34  # what a slide can hold beside a figure, legible from the last row


@dataclass(frozen=True)
class Question:
    """A question of a page, in Markdown, and its answer.

    Attributes:
        choices: none, if the answer is a number.
        right: which choice, counted from 1; 0 for a number.
        value: what was measured, where something was.
    """

    text: str
    choices: Sequence[str]
    right: int
    value: str
    unit: str
    reason: str

    @property
    def seen(self) -> str:
        """The answer in words."""
        if not self.right:
            return amount(self.value, self.unit)
        return self.choices[self.right - 1] + (f" ({self.value})" if self.value else "")


def find(name: str, pages: Mapping[str, Asked]) -> Question | None:
    """The question of that name; None if there is none."""
    stem, _, key = name.partition("/")
    if stem not in pages:
        return None
    if key.startswith("quiz-"):
        return _of_quiz(pages[stem], key.removeprefix("quiz-"))
    found = (each for each in pages[stem].all(Observed) if each.predict.id == key)
    return next((_of_prediction(each) for each in found), None)


def _of_prediction(observed: Observed) -> Question:
    asked = observed.predict
    return Question(asked.question, asked.choices, observed.right, observed.value, asked.unit, observed.reason)


def _of_quiz(asked: Asked, number: str) -> Question | None:
    found = [each for quiz in asked.all(Quiz) for each in quiz.questions]
    if not number.isdecimal() or not 1 <= int(number) <= len(found):
        return None
    text, choices = found[int(number) - 1]
    right = next(i for i, choice in enumerate(choices, 1) if choice.right)
    return Question(text, [choice.text for choice in choices], right, "", "", choices[right - 1].why)


def ask(question: Question) -> str:
    """The question, with its choices as a list with letters, or with a line to write a number on."""
    if question.choices:
        items = "".join(f"<li>{as_html(choice)}</li>" for choice in question.choices)
        answers = f'<ol class="asked-choices" type="A">{items}</ol>'
    else:
        unit = f" {html.escape(question.unit)}" if question.unit else ""
        answers = f'<p class="asked-number">Write down a number: <span></span>{unit}</p>'
    return f'<div class="asked"><p class="asked-question">{as_html(question.text)}</p>{answers}</div>'


def answer(question: Question) -> str:
    """What is right, with its letter; what was measured; and the first sentences of the reason."""
    right = question.choices[question.right - 1] if question.right else question.seen
    mark = f"<b>{chr(ord('A') + question.right - 1)}:</b> " if question.right else ""
    parts = [f'<p class="answered-seen">{mark}{as_html(right)}</p>']
    if question.right and question.value:
        parts.append(f'<p class="answered-value">Observed: {as_html(question.value)}</p>')
    if question.reason:
        parts.append(f'<p class="answered-why">{as_html(first_sentences(question.reason, WORDS_OF_REASON))}</p>')
    return f'<div class="answered">{"".join(parts)}</div>'


def seen(question: Question) -> str:
    """The answer alone, to stand in a sentence."""
    return f"<span>{as_html(question.seen)}</span>"
