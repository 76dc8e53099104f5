"""The one class that knows ParlAI: observations in, ranked candidates and metrics out.

ParlAI's `TorchRankerAgent` keeps the command line, the history and the training loop's interface. What it gets wrong
(candidates matched by truncated ids, stale encodings, repeat blocking that empties the list, batches dropped when
memory runs out) is done here by text and by fingerprint instead.
"""

import argparse
import json
import math
import os
import re
import shutil
from collections import Counter
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from parlai.core.metrics import AverageMetric
from parlai.core.torch_agent import Output
from parlai.core.torch_ranker_agent import TorchRankerAgent
from parlai.utils import logging
from parlai.utils.distributed import get_rank, is_primary_worker, num_workers
from parlai.utils.misc import warn_once
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from poly_agents import processes
from poly_agents.agents import (
    candidates,
    teachers,
)
from poly_agents.agents.dictionary import TokenizerDictionary
from poly_agents.agents.report import Evaluation, EvaluationOptions, RankedContext, grades_of, labels_of
from poly_agents.candidates import memory as candidate_files
from poly_agents.candidates import pool
from poly_agents.candidates.milvus import MilvusSearch, is_address
from poly_agents.candidates.pool import Pool
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.candidates.store import discard, fingerprint_of, read_candidates
from poly_agents.encoders.backbone import without_values
from poly_agents.files import checkpoint
from poly_agents.files.atomic import replace, write_text
from poly_agents.learning import (
    distill,
    negatives,
    training,
)
from poly_agents.learning.schedule import WarmupLinear
from poly_agents.learning.training import TrainingOptions
from poly_agents.models import textranker
from poly_agents.pretrained import parlai_weights
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.ranks import label_ranks, top
from poly_agents.text import turns
from poly_agents.text.tokens import Tokens, pad

DEFAULTS = dict(
    candidates="batch",
    eval_candidates="inline",
    optimizer="adamw",
    learningrate=1e-4,
    weight_decay=0.01,
    gradient_clip=1.0,
    lr_scheduler="linear",
    text_truncate=360,
    label_truncate=72,
    validation_metric="hits@1",
    validation_metric_mode="max",
    validation_every_n_epochs=0.5,
    save_every_n_secs=120,
    log_every_n_secs=10,
)


class ShowCandidates(argparse._StoreAction):
    """`--show-candidates N` also asks `parlai display_model` to show the field the ranking is in."""

    @classmethod
    def add_to(cls, parser) -> None:
        parser.add_argument(
            "--show-candidates",
            type=int,
            default=0,
            action=cls,
            help="in interactive, interactive_web and display_model: show the best N candidates with their scores",
        )

    def __call__(self, parser, namespace, value, option_string=None):
        namespace.show_candidates = value
        namespace.display_add_fields = ",".join(filter(None, [getattr(namespace, "display_add_fields", ""), "ranking"]))


class RankerAgent(TorchRankerAgent):
    """A `Ranker` as a ParlAI agent. A system's agent names its ranker, nothing more."""

    ranker: ClassVar[type[Ranker]]
    defaults: ClassVar[dict[str, Any]] = {}  # of this system, where they differ from those of all

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group(f"{cls.__name__} of poly_agents")
        cls.ranker.Options.add_to(group)
        TrainingOptions.add_to(group)
        SearchOptions.add_to(group)
        EvaluationOptions.add_to(group)
        ShowCandidates.add_to(group)
        parser.set_defaults(**DEFAULTS | cls.defaults)
        if partial_opt and ("num_epochs" in partial_opt or "report_filename" in partial_opt):
            parser.set_defaults(batchsize=64)  # of train_model and eval_model; a chat has one dialogue at a time
        return parser

    @staticmethod
    def dictionary_class():
        return TokenizerDictionary

    @classmethod
    def history_class(cls):
        return turns.ChatHistory

    # --- construction ---------------------------------------------------------------------------------------------

    def __init__(self, opt, shared=None):
        if not shared:
            self._take_over(opt)
            if opt.get("truncate", -1) > 0:
                opt["text_truncate"] = min(opt["text_truncate"], opt["truncate"])
                opt["label_truncate"] = min(opt["label_truncate"], opt["truncate"])
            self._refuse_what_cannot_work(opt)
        self.examples_seen: Counter[str] = Counter()
        self.encoded: dict[str, Any] = shared["encoded"] if shared else {}
        self.kept: Search | MilvusSearch | None = shared["kept"] if shared else None
        self.evaluation = shared["evaluation"] if shared else Evaluation(EvaluationOptions.of(opt))
        super().__init__(opt, shared)
        if not shared and not hasattr(self, "optimizer"):
            self.ranker_module.lower_precision()
        if not shared and hasattr(self, "optimizer"):
            self._prepare_training()

    def _prepare_training(self) -> None:
        options = self.training_options = TrainingOptions.of(self.opt)
        if options.teacher_model:
            self.teacher = distill.Teacher(options.teacher_model)
        if options.hard_negatives:
            of_training = partial(teachers.turns, self.opt, "train")
            self.hard_negatives = negatives.HardNegatives(options, self.opt.get("model_file"), of_training)

    def _take_over(self, opt) -> None:
        """What a model file of ParlAI's own says of itself, by the names it has here, where nothing else was given."""
        start, is_finetune = self._get_init_model(opt, None)
        if not start or not parlai_weights.owns(start):
            return
        header = checkpoint.read_header(start)
        if header["agent"] != textranker.agent_of(self.ranker):
            raise ValueError(f"{start} is a {header['parlai']} of ParlAI: give -m poly_agents/{header['agent']}")
        if not is_finetune and is_training(opt):
            raise ValueError(
                f"--model-file {start} is ParlAI's own and stays as it is; to train on, give --init-model {start} "
                "and another --model-file"
            )
        found, given = checkpoint.settings(header), opt.get("override", {})
        opt.update({key: value for key, value in found.items() if key not in given})
        opt.update(fp16=False, force_fp16_tokens=False)  # how it was trained, and nothing the encoder is run by

    @classmethod
    def _refuse_what_cannot_work(cls, opt) -> None:
        for name in ("text_truncate", "label_truncate"):
            if opt[name] < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {opt[name]}")
        if opt.get("fp16"):
            raise ValueError("--fp16 is ParlAI's own; give --precision bfloat16 or float16")
        options = cls.ranker.Options.of(opt)
        if "vocab" in (opt["eval_candidates"], opt.get("interactive_candidates")) and not cls.ranker.can_cache(options):
            raise ValueError(
                f"{opt['model']} runs once per candidate: a whole vocabulary is too much, give -ecands fixed"
            )
        path = opt.get("fixed_candidates_path")
        if path:
            candidates.check(path)
        if path and is_address(path) and (is_training(opt) or not cls.ranker.can_cache(options)):
            raise ValueError(f"--fixed-candidates-path {path}: a collection is of a trained bi, poly or early")
        for name in ("ranks_file", "submission"):
            if is_training(opt) and opt.get(name):
                raise ValueError(f"--{name.replace('_', '-')} is of an evaluation: give it to eval_model")
        if is_training(opt) and opt.get("precision") == "float16":
            raise ValueError("--precision float16 is for inference; train with bfloat16 or float32")

    def build_dictionary(self):
        self.opt["tokenizer_source"] = self.ranker.Options.of(self.opt).source
        return super().build_dictionary()

    def build_model(self) -> Ranker:
        options = self.ranker.Options.of(self.opt)
        start, _ = self._get_init_model(self.opt, None)
        header = checkpoint.read_header(start) if start else None
        config = header["backbone"] if header else None
        options = options.fill_open(header["options"]) if header else options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.opt.get("seed") or 0)  # ParlAI sets --seed only after the model is made
            device = "cuda" if self.use_cuda else "cpu"
            with without_values() if start else nullcontext():
                lowered = not self._should_initialize_optimizer()
                how = self.label_truncate, lowered
                model = textranker.build(self.ranker, options, self.dict.words, config, device, *how)
        needed, there_are = (
            model.positions_needed(self.text_truncate, self.label_truncate),
            model.context_encoder.positions,
        )
        if needed > there_are:
            raise ValueError(
                f"--text-truncate {self.text_truncate} and --label-truncate {self.label_truncate} need {needed} "
                f"positions with the special tokens, the encoder has {there_are}; give smaller ones"
            )
        if not self.use_cuda:
            self.model_parallel = True  # ParlAI then leaves the device to DistributedDataParallel, as a CPU wants it
        logging.info(f"--precision {options.precision}: products in {model.context_encoder.dtype}")
        return model

    @property
    def ranker_module(self) -> Ranker:
        """The model without its wrapper of distributed training."""
        return getattr(self.model, "module", self.model)

    @classmethod
    def optim_opts(cls):
        """ParlAI's choices; AdamW in one pass over the weights."""
        return super().optim_opts() | {"adamw": partial(torch.optim.AdamW, fused=True)}

    def build_lr_scheduler(self, states=None, hard_reset=False):
        if hard_reset:
            self.examples_seen.clear()
        if self.opt["lr_scheduler"] != "linear":
            return super().build_lr_scheduler(states, hard_reset)
        done = 0 if hard_reset else (states or {}).get("number_training_updates", 0)
        warm_up = self.opt["warmup_updates"] if self.opt["warmup_updates"] >= 0 else None
        total = self._total_updates()
        if 0 < done < (total or math.inf) and not states.get("optimizer"):
            logging.warning("the model has no optimiser beside it (a .checkpoint has): it starts afresh")
        if total and self.opt.get("max_train_time", -1) > 0:
            logging.warning(
                f"the learning rate rises and falls over {total} updates; a run that --max-train-time ends long before "
                "may see nothing but its beginning: give --max-train-steps, or leave out --num-epochs"
            )
        self.scheduler = WarmupLinear(self.optimizer, total, warm_up, done)
        self._number_training_updates = done

    def _total_updates(self) -> int | None:
        """How many updates the run will make, or None where its end is open."""
        if self.opt.get("max_train_steps", -1) > 0:
            return self.opt["max_train_steps"]
        if self.opt.get("num_epochs", -1) <= 0:
            return None
        a_step = self.opt["batchsize"] * self.opt.get("update_freq", 1) * num_workers()
        return max(1, math.ceil(self.opt["num_epochs"] * self.train_examples / a_step))

    def share(self):
        own = {"encoded": self.encoded, "pools": self.pools, "kept": self.kept, "evaluation": self.evaluation}
        return super().share() | own

    def reset(self):
        """ParlAI does this at the end of every task it evaluates."""
        super().reset()
        self.evaluation.close()

    # --- files ----------------------------------------------------------------------------------------------------

    def save(self, path=None):
        """Weights, `.opt` and `.dict` under `path`; a `.checkpoint` also holds all that training needs to go on."""
        path = path or self.opt.get("model_file")
        if not path:
            return
        header = self._text_ranker().header() | {
            "number_training_updates": self._number_training_updates,
            "examples_seen": {task: count * num_workers() for task, count in self.examples_seen.items()},
        }
        scheduler = getattr(self, "scheduler", None)
        if scheduler is not None and not isinstance(scheduler, WarmupLinear):
            header["lr_scheduler"] = scheduler.get_state_dict()
            header["lr_scheduler_type"] = self.opt["lr_scheduler"]
            header["warmup_scheduler"] = scheduler.get_warmup_state_dict()
        optimizer = None
        if path.endswith(".checkpoint") and hasattr(self, "optimizer"):
            header["optimizer_type"] = self.opt["optimizer"]
            optimizer = self.optimizer.state_dict()
        if os.path.exists(f"{path}.trainstats"):
            # ParlAI writes this file in place, after us: a kill in that moment must not cost the run.
            replace(f"{path}.trainstats.previous", lambda beside: shutil.copy(f"{path}.trainstats", beside))
        self.dict.save(f"{path}.dict")
        replace(f"{path}.opt", self.opt.save)
        checkpoint.write(path, header, self.ranker_module.tensors(), optimizer)

    def load(self, path):
        saved = checkpoint.read(path)
        self.encoded.clear()
        self.ranker_module.load_tensors(saved.weights, path)
        for task, count in saved.header.get("examples_seen", {}).items():
            self.examples_seen[task] = count // num_workers()
        self._mend_trainstats(f"{path}.trainstats")
        return saved.header | {"optimizer": saved.optimizer}

    @staticmethod
    def _mend_trainstats(path: str) -> None:
        try:
            text = Path(path).read_text(encoding="utf-8") if os.path.exists(path) else "{}"
            json.loads(text)
        except ValueError:
            logging.warning(f"{path} was cut off by a kill; taking the one before it")
            os.replace(f"{path}.previous", path)

    # --- observations ---------------------------------------------------------------------------------------------

    def vectorize(self, obs, history, **kwargs):
        obs = super().vectorize(obs, history, **kwargs | {"add_start": False, "add_end": False})
        if obs.get("context_truncate_rate") or obs.get("label_truncate_rate"):
            warn_once(
                f"some texts are longer than --text-truncate {self.text_truncate} or --label-truncate "
                f"{self.label_truncate} tokens: contexts keep their newest turns, candidates their head; "
                "the report counts them (ctrunc, ltrunc)"
            )
        return obs

    def _set_label_cands_vec(self, obs, add_start, add_end, truncate):
        source = self.opt["candidates" if "labels" in obs else "eval_candidates"]
        if source in ("inline", "batch-all-cands") and obs.get("label_candidates"):
            obs.force_set("label_candidates", list(obs["label_candidates"]))
            obs["label_candidates_vecs"] = [self.dict.ids(text)[:truncate] for text in obs["label_candidates"]]
        return obs

    def is_valid(self, obs):
        """With --ignore-bad-candidates, training skips an example whose label is not among its candidates."""
        if obs.is_padding():
            return False
        if not self.ignore_bad_candidates or not obs.get("labels") or "label_candidates_vecs" not in obs:
            return True
        known = any(label.strip() == text.strip() for label in obs["labels"] for text in obs["label_candidates"])
        if not known:
            warn_once("skipping examples whose label is not among their candidates")
        return known

    def batchify(self, obs_batch, sort=False):
        batch = super().batchify(obs_batch, sort)
        if batch.batchsize:
            rows = batch.messages = [obs_batch[i] for i in batch.valid_indices.tolist()]
            batch.contexts = [obs.get("text_vec", self.EMPTY).tolist() for obs in rows]
            batch.label_ids = [o.get("labels_vec", o.get("eval_labels_vec", self.EMPTY)).tolist() for o in rows]
            batch.histories = [obs.get("full_text") or obs.get("text") or "" for obs in rows]
            batch.tasks = [obs.get("id", "") for obs in rows]
            batch.right = [labels_of(obs) for obs in rows]
            batch.grades = [grades_of(obs) for obs in rows]
            if not batch.is_training:  # ParlAI has drawn one of several right responses: the loss is of the first
                batch.labels = [right[0] if right else None for right in batch.right]
                for number, right in enumerate(batch.right):
                    if len(right) > 1:
                        batch.label_ids[number] = self.dict.ids(right[0])[: self.label_truncate]
        return batch

    # --- candidates -----------------------------------------------------------------------------------------------

    def _build_candidates(self, batch, source, mode) -> Pool:
        labels = batch.labels if batch.labels and any(batch.labels) else None
        if source == "batch":
            if labels is None:
                raise ValueError(
                    f"--candidates batch ranks the batch's own labels, and these {mode} examples have none"
                )
            if len(labels) == 1:
                warn_once("a batch of one example has no other response to rank against; raise -bs")
            both = processes.all_gather((labels, batch.label_ids)) if mode == "train" else [(labels, batch.label_ids)]
            texts, ids = ([x for part in parts for x in part] for parts in zip(*both, strict=True))
            return pool.shared(texts, ids, labels)
        if source in ("fixed", "vocab"):
            found = self.pools[source]
            if labels:
                rows = self.kept.store.rows_of(labels) if self.kept else pool.columns(found, labels)
                found = found._replace(labels=torch.as_tensor(rows))
        else:
            if batch.candidates is None or not all(batch.candidates):
                flag = "--candidates" if mode == "train" else "--eval-candidates"
                raise ValueError(f"{flag} {source}: these examples bring no candidates; give {flag} batch or fixed")
            if source == "inline":
                found = pool.separate(batch.candidates, batch.candidate_vecs, labels)
            else:
                texts, ids = ([x for row in rows for x in row] for rows in (batch.candidates, batch.candidate_vecs))
                found = pool.shared(texts, ids, labels)
        if (
            found.labels is not None
            and (found.labels < 0).any()
            and not (self.ignore_bad_candidates and mode == "eval")
        ):
            row = int((found.labels < 0).nonzero()[0])
            raise RuntimeError(
                f"the label {labels[row]!r} is not among the {source} candidates of the example "
                f"{batch.histories[row][-200:]!r}; --ignore-bad-candidates true skips such examples"
            )
        return found

    def set_vocab_candidates(self, shared):
        self.vocab_candidates = self.vocab_candidate_vecs = self.vocab_candidate_encs = None
        if not shared and self.eval_candidates == "vocab":
            words = self.dict.words
            ids = sorted(self.dict.ind2tok.keys() - words.frame.special - {words.pad_id})
            self.pools["vocab"] = pool.shared([words.text([i]) for i in ids], [[i] for i in ids], None)

    def set_fixed_candidates(self, shared):
        self.fixed_candidates = self.fixed_candidate_vecs = self.fixed_candidate_encs = None
        self.num_fixed_candidates = 0
        self.pools: dict[str, Pool] = shared["pools"] if shared else {}
        if shared or "fixed" not in (self.candidates, self.eval_candidates):
            return
        path = self.fixed_candidates_path = self.fixed_candidates_path or self.get_task_candidates_path()
        if is_address(path) or self._keeps_candidates():
            self.kept = self._open_store(path)
            self.pools["fixed"] = Pool(self.kept.store.texts, (), None, None)
        else:
            texts = [candidate["text"] for candidate in read_candidates(path)]
            if not texts:
                raise ValueError(f"{path} holds no candidates; it takes one a line")
            ids = [i[: self.label_truncate] for i in self.dict.words.ids_of(texts)]
            self.pools["fixed"] = pool.shared(texts, ids, None)
        self.fixed_candidates = self.pools["fixed"].texts
        self.num_fixed_candidates = len(self.fixed_candidates)
        logging.info(f"{self.num_fixed_candidates} candidates from {path}")

    def _keeps_candidates(self) -> bool:
        """Whether a fixed pool is encoded once and kept on disk."""
        caches = self.ranker.can_cache(self.ranker_module.options)
        somewhere = self.opt.get("model_file") or self.opt["fixed_candidate_vecs"] not in ("reuse", "replace")
        return bool(caches and somewhere and self.encode_candidate_vecs and not is_training(self.opt))

    def _open_store(self, path: str) -> Search | MilvusSearch:
        """The candidates in a file, encoded and kept beside the model; or those of a store that was made before."""
        self.ranker_module.lower_precision()
        model, given = self._text_ranker(), self.opt["fixed_candidate_vecs"]
        folder = candidates.beside(self.opt["model_file"], path) if given in ("reuse", "replace") else given
        if given == "replace":
            discard(folder)
        elif given != "reuse" and fingerprint_of(folder) not in (None, model.maker):
            raise ValueError(f"{folder} was not made by this model; give another path")
        return candidates.open_pool(path, model, SearchOptions.of(self.opt), folder, progress=is_primary_worker())

    def _text_ranker(self) -> textranker.TextRanker:
        return textranker.TextRanker(self.ranker_module, self.dict.words, self.text_truncate, self.label_truncate)

    def get_task_candidates_path(self):
        """A file of the task's responses: all of them in their order, or those the task picks for a chat."""
        name = re.sub(r"[^\w.-]+", "_", self.opt["task"])
        path = f"{self.opt.get('model_file') or 'model'}.cands-{name}.cands"
        if os.path.exists(path) and os.path.getsize(path):
            return path
        logging.info(f"collecting the candidates of {self.opt['task']} in {path}")
        texts: dict[str, None] = {}
        whole = {"datatype": "train:evalmode", "batchsize": 1, "interactive_task": False, "num_examples": -1}
        for teacher in teachers.teachers(self.opt, **whole):
            texts.update(dict.fromkeys(chat_candidates(teacher)))
        if not texts:
            raise ValueError(f"the task {self.opt['task']} has no responses to chat with; give -fcp FILE")
        write_text(path, "\n".join(texts) + "\n")
        return path

    def _kept(self, found: Pool) -> Any:
        """What is kept of an evaluation's candidates from one batch to the next; None where nothing is worth it."""
        ranker, source = self.ranker_module, self.eval_candidates
        if not ranker.can_cache(ranker.options):
            return None
        if source not in self.pools:
            return self.encoded.setdefault("seen", candidate_files.Memory()).encode(ranker, found.ids)
        if source not in self.encoded:
            self.encoded[source] = ranker.encode_ids(found.ids, progress=is_primary_worker())
        return self.encoded[source]

    def score_candidates(self, batch, cand_vecs: Pool, cand_encs=None):
        """Scores [B, C] of a batch against a pool; minus infinity where a row has fewer candidates.

        `cand_encs` is the pool where it is encoded already.
        """
        kept = self.ranker_module.encode_ids(cand_vecs.ids) if cand_encs is None else cand_encs
        return self.ranker_module.score_ids(batch.contexts, kept, cand_vecs.index)

    # --- the two steps --------------------------------------------------------------------------------------------

    def train_step(self, batch):
        self.encoded.clear()
        found = self._training_pool(batch)
        ranker, options = self.ranker_module, self.training_options
        index, labels = (None if part is None else part.to(ranker.device) for part in (found.index, found.labels))
        contexts = pad(batch.contexts).to(ranker.device)
        taught = None
        if options.teacher_model:
            taught = self.teacher.scores(batch.histories, found.texts, found.index).to(ranker.device)

        def objective(rows, kept):
            own = Tokens(*(part[rows] for part in contexts))
            learnt = ranker.training_loss(own, kept, None if index is None else index[rows], labels[rows])
            return learnt if taught is None else options.distil(learnt, taught[rows], labels[rows])

        self.model.train()
        self.zero_grad()
        steps = self.opt.get("update_freq", 1)
        scores, loss = training.backward(
            ranker, pad(found.ids).to(ranker.device), len(labels), objective, options.grad_cache, 1 / steps
        )
        self._number_grad_accum = (self._number_grad_accum + 1) % steps
        if self._number_grad_accum == 0:
            processes.average_gradients(ranker.parameters())
        self.update_params()
        self.examples_seen.update(batch.tasks)
        loss, ranks = torch.stack([loss, label_ranks(scores, labels)]).tolist()  # the one wait for the device
        self.record_local_metric("mean_loss", AverageMetric.many(loss))
        self._record_ranks(ranks)
        self._show_progress(len(loss), sum(loss) / len(loss))
        return Output()

    def _training_pool(self, batch) -> Pool:
        """What each context is trained against: the same list of candidates in every process, its own columns."""
        options = self.training_options
        found = self._build_candidates(batch, self.candidates, "train")
        if self.candidates == "batch" and options.negatives:
            draw = self._number_training_updates * num_workers() + get_rank()
            found = pool.sample(found, options.negatives, draw)
        elif processes.count() > 1 and self.candidates not in ("batch", *self.pools):
            found = pool.common(found, processes.all_gather(found))
        if options.hard_negatives:
            own = self._mined_for(batch)
            texts = [text for rows in processes.all_gather(own) for row in rows for text in row]
            found = pool.add(found, texts, [i[: self.label_truncate] for i in self.dict.words.ids_of(texts)], own)
        return found

    def _mined_for(self, batch) -> list[list[str]]:
        """The hard negatives of each example."""
        epochs = sum(self.examples_seen.values()) * num_workers() / self.train_examples
        found = self.hard_negatives.of(zip(batch.histories, batch.labels, strict=True), epochs, self._text_ranker())
        if None in found:
            warn_once("some training examples are not in the file of hard negatives: they have none")
        return [row or [] for row in found]

    @cached_property
    def train_examples(self) -> int:
        """How many examples the tasks have to train on."""
        return sum(teacher.num_examples() for teacher in teachers.teachers(self.opt))

    def eval_step(self, batch):
        if not batch.batchsize:
            return None
        found = self._build_candidates(batch, self.eval_candidates, "eval")
        if self.kept and found.labels is None and not self.evaluation.submission:
            best = self.kept.best(self.ranker_module, pad(batch.contexts), self._wanted(batch))
            return self._answers(batch, found, best.scores, best.rows)
        if self.kept:
            scores = self.kept.scores(self.ranker_module, pad(batch.contexts))
        else:
            scores = self.score_candidates(batch, found, self._kept(found) if self.encode_candidate_vecs else None)
        scores, right = scores.float().cpu(), None
        self._submit(batch, found, scores)
        if found.labels is not None:
            loss = cross_entropy(scores, found.labels.clamp(min=0), reduction="none").tolist()
            known = zip(loss, found.labels.tolist(), strict=True)
            self.record_local_metric("loss", [AverageMetric(x) if label >= 0 else None for x, label in known])
            right = self._measure(batch, found, scores)
        return self._answers(batch, found, scores, right=right)

    def _measure(self, batch, found: Pool, scores) -> torch.Tensor:
        """Report how well a batch is ranked; which candidates are right, [B, C]."""
        places = self.kept.store.rows_of if self.kept else None
        right = [dict.fromkeys(texts, 1.0) for texts in batch.right]
        grades = None
        if any(row is not None for row in batch.grades):
            rows = [own if row is None else row for row, own in zip(batch.grades, right, strict=True)]
            grades = pool.relevance(found, rows, places)
        right = pool.relevance(found, right, places)
        texts = [partial(self._candidate, found, number) for number in range(len(scores))]
        asked = [RankedContext(*one) for one in zip(batch.histories, batch.right, texts, strict=True)]
        mask = None if found.index is None else (found.index >= 0).expand(len(scores), -1)
        for name, values in self.evaluation.record(asked, scores, right, mask, grades).items():
            self.record_local_metric(name, values)
        return right > 0

    def _submit(self, batch, found: Pool, scores) -> None:
        """Note for --submission what each context's candidates score [B, C], whether there are labels or not."""
        submission = self.evaluation.submission
        if not submission:
            return
        for number, (message, line) in enumerate(zip(batch.messages, scores, strict=True)):
            if self.kept:
                values, rows = top(line, submission.format.limit)
                ids = [self.kept.store[row].get("id") for row in rows.tolist()]
                submission.add(message, ids, values.tolist(), line.logsumexp(0).item())
            elif found.index is None:
                raise ValueError("--submission needs candidates with ids: the task's own (-ecands inline) or a store's")
            else:
                texts = (found.texts[candidate].strip() for candidate in found.row(number))
                submission.add_own(message, dict(zip(texts, line.tolist(), strict=False)))

    @staticmethod
    def _candidate(found: Pool, context: int, column: int) -> str:
        return found.texts[found.row(context)[column]]

    def _record_ranks(self, ranks: list[float]) -> None:
        """Of training: rank of the label, mean reciprocal rank, the share of ranks of one."""
        self.record_local_metric("rank", AverageMetric.many(ranks))
        self.record_local_metric("mrr", [AverageMetric(1 / rank) for rank in ranks])
        self.record_local_metric("train_accuracy", [AverageMetric(int(rank == 1)) for rank in ranks])

    def _said(self, batch) -> list[set[str]]:
        """What each context has heard already, where that is not to be said again."""
        if self.opt["repeat_blocking_heuristic"] and self.eval_candidates == "fixed":
            return [turns.already_said(history) for history in batch.histories]
        return [set()] * len(batch.histories)

    def _wanted(self, batch) -> int:
        """How many of the best it takes to have enough of them left."""
        return min(self.opt["cap_num_predictions"] + max(map(len, self._said(batch))), len(self.kept.store))

    def _answers(self, batch, found: Pool, scores, columns=None, right=None) -> Output:
        """From scores [B, C] of all candidates; or [B, k] of the best, falling, with their `columns`.

        Of equal scores the `right` ones [B, C] come last, so that ParlAI's hits@k do not reward a tie either.
        """
        limit = self.opt["cap_num_predictions"]
        texts, values = [], []
        for number, (line, said) in enumerate(zip(scores, self._said(batch), strict=True)):
            row = found.row(number)
            last = None if right is None else right[number, : len(row)]
            best, order = top(line[: len(row)], limit + len(said), last) if columns is None else (line, columns[number])
            ranked = [(found.texts[row[c]], s) for c, s in zip(order.tolist(), best.tolist(), strict=True) if c >= 0]
            ranked = [pair for pair in ranked if pair[0] not in said] or ranked
            texts.append([text for text, _ in ranked[:limit]])
            values.append([score for _, score in ranked[:limit]])
        sampled = self.opt["inference"] == "topk"
        replies = [self.random.choice(row[: self.opt["topk"]]) if sampled else row[0] for row in texts]
        output = Output(replies, texts, candidate_scores=values)
        if self.opt["return_cand_scores"]:
            output["sorted_scores"] = values
        if self.opt["show_candidates"] and not self.opt.get("interactive_mode"):
            output["ranking"] = [
                lines(row, scores, self.opt["show_candidates"]) for row, scores in zip(texts, values, strict=True)
            ]
        return output

    def act(self):
        """In a chat, append the best candidates to what is shown; the history keeps the reply alone."""
        reply = super().act()
        if self.opt.get("interactive_mode") and self.opt["show_candidates"] and reply.get("text_candidates"):
            shown = lines(reply["text_candidates"], reply["candidate_scores"], self.opt["show_candidates"])
            reply.force_set("text", "\n".join([reply["text"], *shown]))
        return reply

    def _show_progress(self, examples: int, loss: float) -> None:
        """On a terminal, a bar with loss, examples per second and time left; ParlAI's log lines tell the same."""
        if not hasattr(self, "bar"):
            total = getattr(self.scheduler, "total", None) if getattr(self, "scheduler", None) else None
            size = self.opt["batchsize"] * self.opt.get("update_freq", 1) * num_workers()
            done = self._number_training_updates - 1
            self.bar = tqdm(total=total and total * size, initial=done * size, unit="ex", desc="train", disable=None)
            self.smooth_loss = loss
        self.smooth_loss += 0.05 * (loss - self.smooth_loss)
        self.bar.set_postfix(loss=f"{self.smooth_loss:.3f}", refresh=False)
        self.bar.update(examples * num_workers())


def lines(texts, scores, count: int) -> list[str]:
    """`   12.34  text` for the best few."""
    return [f"{score:9.3f}  {text}" for text, score in list(zip(texts, scores, strict=True))[:count]]


def is_training(opt) -> bool:
    """Whether weights are learnt under these options."""
    datatype = opt.get("datatype", "")
    return "train" in datatype and "evalmode" not in datatype and not opt.get("interactive_mode")


def chat_candidates(teacher):
    """The responses of a teacher's split: what it picks for a chat, or every first label in order."""
    if hasattr(teacher, "chat_candidates"):
        yield from teacher.chat_candidates()
        return
    while not teacher.epoch_done():
        message = teacher.act()
        for label in (message.get("labels") or message.get("eval_labels") or ())[:1]:
            yield " ".join(label.split())
