"""A ranker as a ParlAI agent: observations in, ranked candidates and metrics out.

    observe -> batchify -> candidate_source.of(batch) -> score -> report -> best_answers

ParlAI's `TorchRankerAgent` keeps the command line, the history and the interface to the training loop. What it gets
wrong (candidates matched by truncated ids, stale encodings, repeat blocking that empties the list, batches dropped when
memory runs out) is done here by text and by fingerprint instead.
"""

from collections import Counter
from functools import cached_property, partial
from typing import ClassVar

import torch
from parlai.core.metrics import AverageMetric
from parlai.core.torch_agent import Output
from parlai.core.torch_ranker_agent import TorchRankerAgent
from parlai.utils.distributed import num_workers
from torch.nn.functional import cross_entropy

from poly_agents import processes
from poly_agents.agents import answers, arguments, model_file, observations, repeats, teachers, training_run
from poly_agents.agents.arguments import is_training
from poly_agents.agents.candidate_source import CandidateSource, task_candidates_file
from poly_agents.agents.dictionary import TokenizerDictionary
from poly_agents.agents.history import ChatHistory
from poly_agents.agents.report import Evaluation, Scored
from poly_agents.agents.training_run import ProgressBar, TrainingCandidates
from poly_agents.files.checkpoint import LENGTHS
from poly_agents.learning import training
from poly_agents.learning.distill import Teacher
from poly_agents.learning.training import TrainingOptions
from poly_agents.models import opening
from poly_agents.models.textranker import TextRanker
from poly_agents.rankers import agent_of
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.ranks import label_ranks
from poly_agents.text.tokens import pad


class RankerAgent(TorchRankerAgent):
    """A `Ranker` as a ParlAI agent. `poly_agents.agents.agent_class` makes one subclass for each ranker."""

    ranker: ClassVar[type[Ranker]]
    candidate_source: CandidateSource | None = None
    optimizer_is_empty = False  # although updates were made
    train_stats: ClassVar[dict] = {}  # the counters of ParlAI's training loop, set before each save

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        arguments.add_ranker_arguments(parser, cls.__name__, cls.ranker, partial_opt)
        return parser

    @staticmethod
    def dictionary_class():
        return TokenizerDictionary

    @classmethod
    def history_class(cls):
        return ChatHistory

    @classmethod
    def optim_opts(cls):
        """Return ParlAI's optimizers, with an AdamW that updates all weights in one pass."""
        return super().optim_opts() | {"adamw": partial(torch.optim.AdamW, fused=True)}

    # --- construction ---------------------------------------------------------------------------------------------

    def __init__(self, opt, shared=None):
        if not shared:
            model_file.take_options(opt, agent_of(self.ranker), *self._get_init_model(opt, None))
            arguments.apply_truncate(opt)
            arguments.check(opt, self.ranker)
        self.examples_seen: Counter[str] = Counter()
        self.evaluation = shared["evaluation"] if shared else Evaluation.of(opt)
        super().__init__(opt, shared)
        if not shared and is_training(opt):
            self._prepare_training()
        elif not shared:
            self.ranker_module.lower_precision()

    def _prepare_training(self) -> None:
        options = self.training_options = TrainingOptions.of(self.opt)
        teacher = model_file.local(options.teacher_model, self.opt.get("datapath"))
        self.teacher = Teacher(teacher) if teacher else None
        examples = partial(teachers.response_examples, self.opt, "train")
        path = self.opt.get("model_file")
        self.training_candidates = TrainingCandidates(options, self.candidate_source, path, examples)

    def build_dictionary(self):
        self.opt["tokenizer_source"] = self.ranker.Options.of(self.opt).source
        return super().build_dictionary()

    def build_model(self) -> Ranker:
        start, _ = self._get_init_model(self.opt, None)
        model = model_file.build(self.ranker, self.opt, self.dict, start, self.use_cuda)
        self.text_truncate, self.label_truncate = self.opt["text_truncate"], self.opt["label_truncate"]
        if not self.use_cuda:
            self.model_parallel = True  # ParlAI then leaves the device to DistributedDataParallel, as a CPU wants it
        return model

    def set_fixed_candidates(self, shared):
        self.fixed_candidates = self.fixed_candidate_vecs = self.fixed_candidate_encs = None
        self.num_fixed_candidates = 0
        self.candidate_source = shared["candidate_source"] if shared else CandidateSource(self.text_ranker, self.opt)
        if shared or "fixed" not in (self.candidates, self.eval_candidates):
            return
        self.fixed_candidates_path = self.fixed_candidates_path or task_candidates_file(self.opt)
        self.candidate_source.add_fixed(self.fixed_candidates_path)
        if self.candidate_source.search and (loaded := self._get_init_model(self.opt, None)[0]):
            self.ranker_module.release(loaded)
        self.fixed_candidates = self.candidate_source.pools["fixed"].texts
        self.num_fixed_candidates = len(self.fixed_candidates)

    def get_task_candidates_path(self):  # ParlAI asks for it before a chat
        return task_candidates_file(self.opt)

    def set_vocab_candidates(self, shared):
        self.vocab_candidates = self.vocab_candidate_vecs = self.vocab_candidate_encs = None
        if not shared and self.eval_candidates == "vocab":
            self.candidate_source.add_vocabulary()

    @property
    def ranker_module(self) -> Ranker:
        """Return the model without its wrapper of distributed training."""
        return getattr(self.model, "module", self.model)

    @property
    def text_ranker(self) -> TextRanker:
        """Return the model as plain Python uses it; both share their weights."""
        return TextRanker(self.ranker_module, self.dict.words, **{name: self.opt[name] for name in LENGTHS})

    def share(self):
        return super().share() | {"candidate_source": self.candidate_source, "evaluation": self.evaluation}

    def reset(self):
        """Forget the dialogue. ParlAI also calls this at the end of every task it evaluates."""
        super().reset()
        self.evaluation.close()

    # --- files ----------------------------------------------------------------------------------------------------

    def save(self, path=None):
        """Save a model file, or a `.checkpoint` that also holds what training needs to go on."""
        path = path or self.opt.get("model_file")
        if not path:
            return
        counters = training_run.counters(self._number_training_updates, self.examples_seen, self.train_stats)
        optimizer = self.optimizer.state_dict() if path.endswith(".checkpoint") and is_training(self.opt) else None
        model_file.save(path, self.text_ranker, self.opt, counters, getattr(self, "scheduler", None), optimizer)

    def load(self, path):
        """Load the weights of a model file, and the state of training that a checkpoint has."""
        saved = opening.read_weights(path)
        if self.candidate_source:
            self.candidate_source.forget()
        model_file.fill(self.ranker_module, saved, path)
        for task, count in saved.header.get("examples_seen", {}).items():
            self.examples_seen[task] = count // num_workers()
        model_file.restore_trainstats(path, saved.header, self.opt)
        return saved.header | {"optimizer": saved.optimizer}

    # --- observations ---------------------------------------------------------------------------------------------

    def vectorize(self, obs, history, **kwargs):
        obs = super().vectorize(obs, history, **kwargs | {"add_start": False, "add_end": False})
        observations.warn_if_truncated(obs, self.text_truncate, self.label_truncate)
        return obs

    def _set_text_vec(self, obs, history, truncate):
        observations.set_context(obs, history, truncate)

    def _set_label_vec(self, obs, add_start, add_end, truncate):
        observations.set_label(obs, self.dict.ids, truncate, self.random)

    def _set_label_cands_vec(self, obs, add_start, add_end, truncate):
        if self.opt["candidates" if "labels" in obs else "eval_candidates"] in ("inline", "batch-all-cands"):
            observations.set_candidates(obs, self.dict.ids, truncate)

    def is_valid(self, obs):
        """Skip examples in training whose label is not among their candidates, with --ignore-bad-candidates."""
        return not obs.is_padding() and (not self.ignore_bad_candidates or observations.has_label(obs))

    def batchify(self, obs_batch, sort=False):
        return observations.batchify(obs_batch, self.is_valid, self.NULL_IDX, self.is_debug)

    # --- the two steps --------------------------------------------------------------------------------------------

    def train_step(self, batch):
        self.candidate_source.forget()  # this step changes the weights: cached encodings would be of the old ones
        seen = sum(self.examples_seen.values()) * num_workers()
        epochs = seen / self.train_examples if self.training_options.hard_negatives else 0.0
        pool = self.training_candidates.of(batch, self.candidates, self._number_training_updates, epochs)
        contexts = [example.context for example in batch.examples]
        taught = self.teacher.scores(contexts, pool.texts, pool.index) if self.teacher else None
        self.model.train()
        self.zero_grad()
        steps = self.opt.get("update_freq", 1)
        batch_of_ids = training.TrainingBatch(batch.tokens, pad(pool.ids), pool.index, pool.labels, taught)
        scores, loss = training.step(self.ranker_module, self.training_options, batch_of_ids, 1 / steps)
        self._number_grad_accum = (self._number_grad_accum + 1) % steps
        if self._number_grad_accum == 0:
            processes.average_gradients(self.ranker_module.parameters())
        self.update_params()
        self.examples_seen.update(example.message.get("id", "") for example in batch.examples)
        ranks = label_ranks(scores, pool.labels.to(scores.device))
        loss, ranks = torch.stack([loss, ranks]).tolist()  # the one wait for the device
        for name, values in training_run.metrics(loss, ranks).items():
            self.record_local_metric(name, values)
        self.progress.update(len(loss) * num_workers(), sum(loss) / len(loss))
        return Output()

    def eval_step(self, batch):
        if not batch.batchsize:
            return None
        pool = self.candidate_source.of(batch, self.eval_candidates, training=False)
        said = repeats.said_in(batch.examples, self.opt, self.eval_candidates == "fixed", self.text_ranker)
        limit = self.opt["cap_num_predictions"]
        if self.candidate_source.search and pool.labels is None and not self.evaluation.submission:
            best = self.candidate_source.best(batch.tokens, answers.count_with_said(limit, said))
            return answers.output(answers.best_answers(best, limit, said), self.opt, self.random)
        scored = self.candidate_source.score(batch.tokens, pool, self.eval_candidates)
        answers.submit(self.evaluation, batch.examples, scored, self.candidate_source.store)
        relevance = self._report(batch, scored) if pool.labels is not None else None
        return answers.output(answers.best_answers(scored, limit, said, relevance), self.opt, self.random)

    def _report(self, batch, scored: Scored) -> torch.Tensor:
        """Record loss and measures. Returns which candidates are right, [B, C]."""
        labels = scored.pool.labels
        loss = cross_entropy(scored.scores, labels.clamp(min=0), reduction="none").tolist()
        pairs = zip(loss, labels.tolist(), strict=True)
        self.record_local_metric("loss", [AverageMetric(x) if label >= 0 else None for x, label in pairs])
        report = answers.report(self.evaluation, batch.examples, scored)
        for name, values in report.metrics.items():
            self.record_local_metric(name, values)
        return report.relevance

    def act(self):
        reply = super().act()
        return answers.show(reply, self.opt["show_candidates"]) if self.opt.get("interactive_mode") else reply

    def score_candidates(self, batch, cand_vecs, cand_encs=None):
        """Score a batch against a pool, [B, C]. ParlAI's name for it; `cand_encs` are encodings made ahead."""
        ranker = self.ranker_module
        encoded = ranker.encode_ids(cand_vecs.ids) if cand_encs is None else cand_encs
        return ranker.score_tokens(batch.tokens, encoded, cand_vecs.index)

    # --- schedule and progress ------------------------------------------------------------------------------------

    def build_lr_scheduler(self, states=None, hard_reset=False):
        if hard_reset:
            self.examples_seen.clear()
        if self.opt["lr_scheduler"] != "linear":
            return super().build_lr_scheduler(states, hard_reset)
        done = 0 if hard_reset else (states or {}).get("number_training_updates", 0)
        total = training_run.total_updates(self.opt, self._update_size, lambda: self.train_examples)
        self.optimizer_is_empty = done > 0 and not (states or {}).get("optimizer")
        self.scheduler = training_run.linear_schedule(self.opt, self.optimizer, total, done)
        self._number_training_updates = done

    @property
    def _update_size(self) -> int:
        """Return the examples of one update, in all processes."""
        return self.opt["batchsize"] * self.opt.get("update_freq", 1) * num_workers()

    @cached_property
    def train_examples(self) -> int:
        """Return how many examples the tasks have to train on."""
        return sum(teacher.num_examples() for teacher in teachers.teachers(self.opt))

    @cached_property
    def progress(self) -> ProgressBar:
        """Return the bar of a run, made at its first step. Warns if the run goes on without its optimizer's state."""
        if self.optimizer_is_empty:
            training_run.warn_of_empty_optimizer()
        total = getattr(getattr(self, "scheduler", None), "total", None)
        size = self._update_size
        return ProgressBar(total * size if total else None, (self._number_training_updates - 1) * size)
