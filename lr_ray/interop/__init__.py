"""Interchange with the sample files of the published LightReasoner code, in both directions.

JSONL, one line a kept step, the steps of a trajectory one after the other:

    prompt_id      the problem's text: what the published training gives the expert as the user's turn
    step           index of the labelled token in the completion, from 1 (the first is never scored)
    prefix         text of the completion's first `step` tokens, special tokens included, without the
                   prompt
    token_ids      the plausible set, ascending, within the rows that both models have
    tokens         text of each of them alone
    weights        the soft label over token_ids, float32, not rounded
    kl_divergence  nats, over those rows

`form` reads one line, `grouping` makes supervision rows of a problem's lines, `reading` and `writing`
are the two jobs:

    lr-ray import --config NAME --run RUN --samples FILE [FILE ...]
    lr-ray export --run RUN --out FILE

Files written here have two more fields, which the published reader ignores: `problem_id`, and
`context_token_ids`, the prompt and the first `step` tokens of the completion. A line with the second
is read back exactly. Without it the prompt is rendered from prompt_id with sampling.system_prompt,
and the prefix is tokenized; a `prefix` that begins as a rendered prompt does is taken to hold prompt
and completion, as `step` tells them apart.

What such a file does not hold, and a run made of it lacks: the trajectory from its last kept step on
(the label's heaviest token stands there), the KL of steps that were not kept (NaN), the exact token
ids of the prefix, the finish reason ("imported"), the mass of plausible tokens beyond the rows that
both models have (the label was normalised without them).
"""
