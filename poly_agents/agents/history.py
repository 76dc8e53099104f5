"""The history of a dialogue, as ParlAI's agents keep it."""

from parlai.core.torch_agent import History

from poly_agents.text.truncation import cut_context, persona_lines
from poly_agents.text.turns import PERSONA, SPEAKERS


class ChatHistory(History):
    """ParlAI's history. In a chat it marks who speaks, if the model was trained on such marks."""

    def __init__(self, opt, **kwargs):
        super().__init__(opt, **kwargs)
        self.persona_share: float = opt.get("persona_share") or 0.0
        if opt.get("speakers") and opt.get("interactive_mode"):  # the texts of a task are marked already
            self.add_person_tokens = True
            self.p1_token, self.p2_token = SPEAKERS

    def cut(self, ids: list[int], text: str, limit: int) -> list[int]:
        """Cut the ids of a context. Of long ones the newest turns are kept, and persona lines."""
        if self.reversed:
            return ids[-limit:]
        return cut_context(ids, persona_lines(text), self.dict.words.turn_id, limit, self.persona_share)

    def _add_person_tokens(self, text, token, add_after_newln=False):
        if token not in SPEAKERS:  # the tokens of a model of ParlAI's own
            return super()._add_person_tokens(text, token, add_after_newln)
        return "\n".join(token + line if line and not line.startswith(PERSONA) else line for line in text.split("\n"))


class TextHistory(ChatHistory):
    """A history for agents that need its text alone: nothing is tokenized."""

    def parse(self, text: str) -> list[int]:
        return []
