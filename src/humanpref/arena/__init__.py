"""The synthetic arena: rows in the competition's schema whose true class probabilities are known.

Every row is generated in three steps, with one module per step: `latents` draws the content of the
prompt and the quality of each model's answer, `truth` turns these into probabilities, and `texts`
writes the prompt and the answers with the words of `vocabulary`. `generate` assembles the rows and
writes the files. Everything that the true probabilities depend on can be inferred from the prompt
and the two answers, so the lowest expected log loss is the mean entropy of these probabilities
(`bayes_log_loss`).

The table shows how much the log loss rises above that minimum, in nats, if a model ignores one
channel. It was measured with logistic regressions on the latents of 40,000 rows, half of which were
used for fitting.

==========  ======  ==========================================================================
channel     cost    where a reader finds it
==========  ======  ==========================================================================
quality     0.059   precise words versus vague ones and misspellings: a bag of words sees it
kind        0.028   the prompt's wording: creative prompts and small talk tie more often
length      0.015   log ratio of the word counts, saturating
relevance   0.009   share of the answer's topical words that belong to the prompt's topic
verdict     0.009   whether the answer to a checkable question is right: word order matters
==========  ======  ==========================================================================
"""

from humanpref.arena.generate import Arena, make_arena, write_arena
from humanpref.arena.truth import bayes_log_loss

__all__ = ["Arena", "bayes_log_loss", "make_arena", "write_arena"]
