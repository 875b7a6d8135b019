"""The synthetic arena: rows in the competition's schema whose true class probabilities are known.

Every row is made in three steps, a module each: `latents` draws what its prompt asks and how well
each model answers, `truth` turns that into probabilities, and `texts` writes it in the words of
`vocabulary`. `generate` puts the rows together and writes the files. All that the true
probabilities depend on can be read off the prompt and the two answers, so that the lowest expected
log loss is the mean entropy of the probabilities, `bayes_log_loss`.

Blindness to one channel costs (nats over that lowest loss; logistic regression on the latents of
40,000 rows, half of them to fit):

==========  ======  ==========================================================================
channel     cost    where a reader finds it
==========  ======  ==========================================================================
quality     0.059   precise words against vague ones and misspellings: a bag of words sees it
kind        0.028   the prompt's wording: creative prompts and small talk tie more often
length      0.015   log ratio of the word counts, saturating
relevance   0.009   share of the answer's topical words that belong to the prompt's topic
verdict     0.009   whether the answer to a checkable question is right: word order
==========  ======  ==========================================================================
"""

from humanpref.arena.generate import Arena, make_arena, write_arena
from humanpref.arena.truth import bayes_log_loss

__all__ = ["Arena", "bayes_log_loss", "make_arena", "write_arena"]
