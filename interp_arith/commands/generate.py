"""Ask a trained model questions."""

from typing import Annotated

import tyro

from interp_arith.commands.parsing import parse
from interp_arith.errors import RequestError
from interp_arith.generation import Asker, example_question
from interp_arith.runs import load_run


def run(arguments: list[str]) -> None:
    """`interp-arith generate`."""

    def command(
        run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
        questions: Annotated[
            tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[QUESTION …]")
        ] = (),
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
        step: str = "last",
        steps: tyro.conf.FlagCreatePairsOff[bool] = False,
        interactive: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Ask a trained model.

        Args:
            run: a run directory, or the name of one.
            questions: such as "23+45=".
            temperature: 0 is greedy, 1 the model's own distribution.
            top_k: draw among the k likeliest tokens only.
            seed: of the draws.
            step: a step of the trajectory, best, or last.
            steps: show every generated token's top logits and probabilities.
            interactive: read questions from the keyboard until an empty line.
        """
        asker = Asker(load_run(run), step, temperature, top_k, seed)
        example = example_question(asker.task)
        if not questions and not interactive:
            raise RequestError(f"no question given; for example {example!r}, or --interactive")
        for question in questions:
            asker.task_of(question)
        for question in questions:
            print(asker.tell(question, steps))
        if interactive:
            print(f"a question such as {example!r}; an empty line ends")
        while interactive:
            try:
                question = input("question> ").strip()
            except EOFError:
                print()
                break
            if not question:
                break
            try:
                print(asker.tell(question, steps))
            except RequestError as error:
                print(error)

    parse(command, "generate", __doc__, arguments)
