from __future__ import annotations

import pickle

import pytest

import headgate
from headgate import _core, errors


def test_kinds_equal_the_cores():
    assert [k.value for k in errors.Kind] == _core.error_kinds()


@pytest.mark.parametrize("kind", list(errors.Kind))
def test_every_kind_has_a_class_and_pickles(kind):
    error = errors.from_kind(kind.value, "what happened")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.kind, str(back)) == (type(error), kind, "what happened")
    assert isinstance(error, errors.HeadgateError)


def test_the_tree_is_as_it_is_drawn():
    drawn = errors.__doc__
    for name, cls in vars(errors).items():
        if isinstance(cls, type) and issubclass(cls, errors.HeadgateError):
            assert name in drawn
    assert issubclass(errors.InvalidInputError, ValueError)
    assert issubclass(errors.NotFoundError, KeyError)
    assert issubclass(errors.AccessError, PermissionError)
    assert issubclass(errors.StaleLeaseError, errors.ConflictError)


def test_core_errors_arrive_as_their_class(tmp_path):
    with pytest.raises(errors.InvalidInputError) as caught:
        headgate.canonical_texts(["{"])[0]
    assert caught.value.kind is errors.Kind.INVALID_JSON
    with pytest.raises(errors.NotFoundError):
        _core.file_store(str(tmp_path)).get("nothing")
    assert str(errors.NotFoundError("a sentence")) == "a sentence"
