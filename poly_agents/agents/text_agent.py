"""The side of an agent that reads dialogues as text: it tokenizes nothing."""

from parlai.core.agents import Agent
from parlai.core.message import Message

from poly_agents.agents.history import TextHistory
from poly_agents.agents.report import Evaluation, RankedExample


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

    def reset(self):
        super().reset()
        self.history.reset()
        self.evaluation.close()
