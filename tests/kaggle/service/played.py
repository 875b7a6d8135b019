"""A signed-in client whose service is played by functions of the test."""

from types import SimpleNamespace

from humanpref.kaggle.service import client as module
from humanpref.kaggle.service.client import Client

from ..loopback import KEY, USER


class Asked:
    """A request as the client's own methods take them."""


def sign_in(values):
    """Stands for `humanpref.kaggle.service.signin.sign_in`, with these credentials."""
    sdk = SimpleNamespace(
        datasets=SimpleNamespace(dataset_api_client="the datasets"),
        kernels=SimpleNamespace(kernels_api_client="the kernels"),
        competitions=SimpleNamespace(competition_api_client="the competitions"),
    )
    api = SimpleNamespace(
        args=["kernels", "-v", "--verbose", "status"],
        config_values=values,
        build_kaggle_client=lambda: sdk,
    )
    return api, "a key file"


def make_client(monkeypatch, values=None, secrets=(KEY,)):
    values = {"username": USER, "key": KEY} if values is None else values
    monkeypatch.setattr(module, "sign_in", lambda: sign_in(values))
    monkeypatch.setattr(module, "secrets", lambda api: list(secrets))
    return Client()


def answering(*answers):
    """A method of the service that gives these answers, or raises those that are errors; what it
    was asked is in `asked`."""
    left, asked = list(answers), []

    def method(request: Asked):
        asked.append(vars(request))
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    method.asked = asked
    return method
