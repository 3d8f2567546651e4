"""What came out, counted; and what must not have come out."""

import collections
import json
import threading

WRONG = ("wrong", "refused for no reason", "refused")
SHOWN = 40


class Report:
    def __init__(self):
        self.lock = threading.Lock()
        self.counts = collections.defaultdict(collections.Counter)
        self.details = collections.defaultdict(dict)
        self.failures = []
        self.answers = collections.Counter()

    def count(self, part, outcome):
        with self.lock:
            self.counts[part][outcome] += 1

    def load(self, name, reason, detail):
        outcome = f"not loaded: {reason}" if reason else "refused for no reason"
        self.note("load", name, outcome, detail)

    def answer(self, name, protocol, outcome, detail):
        self.note(protocol, name, outcome, detail)

    def batched(self, name, outcome, detail, shared, wrong=0, answers=0):
        apart = "together" if shared else "alone"
        self.note("batched", name, f"{outcome}, {apart}", detail, bad=outcome in WRONG)
        with self.lock:
            self.answers.update(all=answers, wrong=wrong, shared=shared)

    def note(self, part, name, outcome, detail, bad=None):
        self.count(part, outcome)
        with self.lock:
            self.details[name][part] = f"{outcome} {detail}".strip()
            if bad if bad is not None else outcome in WRONG:
                self.failures.append(f"{name} ({part}): {outcome}: {detail}")

    def text(self):
        lines = []
        for part, outcomes in self.counts.items():
            lines.append(f"{part}:")
            lines += [f"  {count:6}  {outcome}" for outcome, count in sorted(outcomes.items())]
        if self.answers:
            lines.append(
                f"answers to requests with a symbolic first axis: {self.answers['all']}, of which "
                f"{self.answers['shared']} from a run shared with others; wrong: {self.answers['wrong']}"
            )
        lines.append(f"failures: {len(self.failures)}")
        lines += [f"  {failure[:300]}" for failure in self.failures[:SHOWN]]
        if len(self.failures) > SHOWN:
            lines.append(f"  … and {len(self.failures) - SHOWN} more")
        return "\n".join(lines)

    def json(self):
        whole = {
            "counts": self.counts, "answers": self.answers, "failures": self.failures, "cases": self.details,
        }
        return json.dumps(whole, indent=1, sort_keys=True)
