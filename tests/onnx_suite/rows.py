"""What the server says of a model's rows: whether its graph proves them independent, a trial showed it, or neither."""


class Rows:
    """`verdict`: proven, tried, told, mixed, no_batch_axis, unknown; `batched`: whether requests share runs."""

    def __init__(self, verdict, batched):
        self.verdict, self.batched = verdict, batched

    @staticmethod
    def of(server, model):
        version = server.get(f"/api/v1/models/{model}")["versions"][0]
        return Rows(version.get("rows", {}).get("verdict", "not said"), version["batched"])
