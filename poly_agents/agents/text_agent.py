"""The side of an agent that reads dialogues and answers them as text: it tokenizes nothing."""

from parlai.core.agents import Agent
from parlai.core.message import Message
from torch import Tensor

from poly_agents.agents import answers, repeats
from poly_agents.agents.history import TextHistory
from poly_agents.agents.report import Evaluation, RankedExample, Scored
from poly_agents.models.textranker import TextRanker


class TextAgent(Agent):
    """Remembers each dialogue, and puts its text into the observation as `full_text`."""

    evaluation: Evaluation

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.history = TextHistory(opt)
        self.chat = opt.get("interactive_mode", False)

    def observe(self, observation):
        observation = Message(observation)
        if not observation.is_padding():
            self.history.update_history(observation)
            observation.force_set("full_text", self.history.get_history_str() or "")
        self.observation = observation
        return observation

    def self_observe(self, reply):
        """Remember what was said: the label where there is one, as in training."""
        if self.observation is None or self.observation.is_padding():
            return
        if self.observation.get("episode_done"):
            self.history.reset()
            return
        example = RankedExample.of(self.observation, self.observation.get("full_text", ""))
        said = example.right[0] if example.right else reply.get("text")
        if said is not None:
            self.history.add_reply(said)

    def answer(
        self,
        reply: Message,
        example: RankedExample,
        scored: Scored,
        relevance: Tensor | None = None,
        model: TextRanker | None = None,
    ) -> None:
        """Put the ranking of one context into a reply.

        Args:
            reply: changed in place.
            example: the context.
            scored: its candidates.
            relevance: of equal scores the right candidates come last, [1, C].
            model: compares texts with what was said.
        """
        said = repeats.said_in([example], self.opt, model=model)
        (answer,) = answers.best_answers(scored, len(scored.pool.row(0)), said, relevance)
        reply.update(text=answer.texts[0], text_candidates=answer.texts, candidate_scores=answer.scores)
        if self.opt.get("show_candidates") and not self.chat:
            reply["ranking"] = answers.lines(answer, self.opt["show_candidates"])

    def shown(self, reply: Message) -> Message:
        """Remember a reply, and return it as a chat shows it."""
        self.self_observe(reply)
        return answers.show(reply, self.opt.get("show_candidates")) if self.chat else reply

    def reset(self):
        super().reset()
        self.history.reset()
        self.evaluation.close()
