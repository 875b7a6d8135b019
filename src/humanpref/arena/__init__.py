"""The synthetic arena: rows in the competition's schema whose true class probabilities are known.

Every row is generated in three steps, with one module per step: `latents` draws the content of the
prompt and the quality of each model's answer, `truth` turns these into probabilities, and `texts`
writes the prompt and the answers with the words of `vocabulary`. `generate` assembles the rows and
writes the files. Everything on which the true probabilities depend can be inferred from the prompt
and the two answers, so the lowest expected log loss is the mean entropy of the probabilities,
`bayes_log_loss`.

The table shows the cost of ignoring one channel, in nats above that lowest loss (measured by
logistic regression on the latents of 40,000 rows, half of them used for fitting):

==========  ======  ==========================================================================
channel     cost    where a reader finds it
==========  ======  ==========================================================================
quality     0.059   precise words versus vague ones and misspellings: a bag of words sees it
kind        0.028   the prompt's wording: creative prompts and small talk tie more often
length      0.015   log ratio of the word counts, saturating
relevance   0.009   share of the answer's topical words that belong to the prompt's topic
verdict     0.009   whether the answer to a checkable question is right: needs word order
==========  ======  ==========================================================================
"""

from humanpref.arena.generate import Arena, make_arena, write_arena
from humanpref.arena.truth import bayes_log_loss

__all__ = ["Arena", "bayes_log_loss", "make_arena", "write_arena"]
