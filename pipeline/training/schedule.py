"""The learning rate of each step: linear warm-up, then linear decay (Devlin et al. 2018 §A.2).

In: a phase and a step in it. Out: a number. What always holds: it is a function of the step, so a resumed
run needs no scheduler's state.

Example:
    learning_rate(phase, 0)  # the first step's: peak ÷ warmup_steps
"""

from pipeline.phase import Phase


def learning_rate(phase: Phase, step: int) -> float:
    """The rate of `step` (from 0) of `phase`: step 0 already learns, the last decays to just above the end."""
    if step < phase.warmup_steps:
        return phase.learning_rate * (step + 1) / phase.warmup_steps
    decaying = phase.steps - phase.warmup_steps
    left = (phase.steps - step) / decaying
    return phase.final_learning_rate + (phase.learning_rate - phase.final_learning_rate) * left
