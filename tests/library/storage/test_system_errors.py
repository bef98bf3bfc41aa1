"""The machine's own errors are told from those about a file, through any wrapping."""

import errno

import pytest

from library.storage import system_errors

DISK = OSError(errno.ENOSPC, "No space left on device")


def chained(cause, context=False):
    """A ValueError raised from, or while handling, an error."""
    outer = ValueError("outer")
    setattr(outer, "__context__" if context else "__cause__", cause)
    return outer


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("cause", [DISK, MemoryError("no more")])
def test_the_error_itself_is_found_wherever_it_is_in_the_chain(cause, context):
    assert system_errors.find(cause) is cause
    outer = chained(chained(cause, context), context)
    assert system_errors.find(outer) is cause
    with pytest.raises(type(cause)) as caught:
        system_errors.reraise(outer)
    assert caught.value is cause


@pytest.mark.parametrize(
    "text, code",
    [
        ("open() failed: Too many open files; opening a", errno.EMFILE),
        ("UNAVAILABLE: write [os_error_code='28'] [source locations='x']", errno.ENOSPC),
        ("[Errno 13] Permission denied: 'a'", errno.EACCES),
        ("Input/output error reading block", errno.EIO),
    ],
)
def test_libraries_that_keep_only_words_are_understood(text, code):
    found = system_errors.find(RuntimeError(text))
    assert isinstance(found, OSError) and found.errno == code and text in str(found)
    with pytest.raises(OSError) as caught:
        system_errors.reraise(RuntimeError(text))
    assert caught.value.errno == code and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("corrupted chunk at 100"),
        OSError(errno.ENOENT, "No such file or directory"),
        RuntimeError("os_error_code='2'"),
        RuntimeError(""),
        OSError("reset by peer"),
        chained(KeyError("a")),
    ],
)
def test_errors_about_a_file_are_left_to_the_caller(error):
    assert system_errors.find(error) is None
    assert system_errors.reraise(error) is None
