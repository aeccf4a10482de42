"""Frames of videos are those of a decoder that starts at the beginning, whatever the file is like."""

import random
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_files import damaged, decoded, encode, noisy

from mimcore.data.clips import about, read_frames
from mimcore.data.decode import DecodeError
from mimcore.data.videos import open_video
from mimcore.errors import UserError

FRAMES = 60
#: Codec, container and options of the encoder; B-frames, groups that lean on the one before, references from the future.
KINDS = {
    "h264": ("libx264", "mp4", {"bf": "3", "g": "16"}),
    "h264-open": ("libx264", "matroska", {"bf": "3", "g": "16", "x264-params": "open-gop=1:scenecut=0"}),
    "h264-avi": ("libx264", "avi", {"bf": "0", "g": "16"}),
    "hevc": ("libx265", "mp4", {"x265-params": "log-level=none:keyint=16:bframes=3:pools=none:frame-threads=1"}),
    "mpeg4": ("mpeg4", "mov", {"bf": "2", "g": "16"}),
    "mpeg4-avi": ("mpeg4", "avi", {"bf": "2", "g": "16"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "16", "auto-alt-ref": "1", "lag-in-frames": "8", "cpu-used": "8"}),
    "av1": ("libsvtav1", "mp4", {"preset": "12", "g": "16", "svtav1-params": "lp=1"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_frames_are_those_of_a_decoder_that_reads_all(kind: str) -> None:
    codec, container, options = KINDS[kind]
    data = encode(noisy(FRAMES), codec, container, options)
    truth = decoded(data)
    assert about(data) == (64, 48, FRAMES)
    draw = random.Random(0)
    for _ in range(12):
        numbers = sorted(draw.choices(range(FRAMES), k=draw.randint(1, 6)))
        assert np.array_equal(read_frames(data, numbers), truth[numbers].transpose(0, 3, 1, 2))
    with pytest.raises(DecodeError, match=f"frame {FRAMES} is asked for, and the clip ends before it"):
        read_frames(data, [3, FRAMES])


@given(st.lists(st.integers(1, 9), min_size=2, max_size=20), st.data())
def test_frames_are_numbered_in_the_order_of_showing_at_any_rate(gaps: list[int], data: st.DataObject) -> None:
    times = np.cumsum(gaps).tolist()
    video = encode(noisy(len(times), 16, 16), times=times, options={"bf": "2", "g": "5"})
    truth = decoded(video)
    numbers = sorted(data.draw(st.lists(st.integers(0, len(times) - 1), min_size=1, max_size=5)))
    with open_video(video) as opened:
        assert opened.frames == len(times) == len(truth)
        assert np.array_equal(opened.read(numbers), truth[numbers])
        mean = (times[-1] - times[0]) / 50 / (len(times) - 1)
        assert opened.fps == pytest.approx(1 / mean, rel=1e-3)
        assert opened.seconds == pytest.approx(mean * len(times), rel=1e-3)


def test_no_more_is_decoded_than_the_frames_need(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noisy(FRAMES), options={"bf": "0", "g": "10", "x264-params": "scenecut=0"})
    fed = []
    with open_video(data) as video:
        context = video._stream.codec_context

        class Counted:
            flush_buffers = context.flush_buffers

            def decode(self, packet: object) -> object:
                fed.append(packet)
                return context.decode(packet)

        monkeypatch.setattr(video, "_stream", type("Stream", (), {"codec_context": Counted()}))
        video.read([43, 44])
    # From the keyframe 40 on, and what the decoder holds back.
    assert 5 <= len(fed) <= 10


def test_a_turned_video_is_read_upright() -> None:
    """The matrix of a telephone held upright sends (x, y) to (-y, x): the top left corner goes to the top right."""
    data = encode(noisy(4))
    place = data.index(b"tkhd")
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    at = data.index(plain, place)
    found = data[:at] + turned + data[at + len(turned) :]
    assert about(found) == (48, 64, 4)
    assert np.array_equal(read_frames(found, [2])[0].transpose(1, 2, 0), np.rot90(decoded(data)[2], -1))


def test_what_is_cut_short_or_no_video_is_said() -> None:
    data = encode(noisy(FRAMES))
    for container, codec in (("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")):
        whole = encode(noisy(FRAMES), codec, container)
        assert about(whole).frames == FRAMES
        with pytest.raises(DecodeError, match=r"truncated|cannot be decoded"):
            about(whole[: len(whole) * 3 // 4])
    for broken in (b"", b"no clip at all", data[:100], bytes(5000)):
        with pytest.raises(DecodeError):
            about(broken)


def test_damage_inside_is_found_by_decoding_all_or_where_it_is() -> None:
    data = encode(noisy(FRAMES), options={"g": "10", "bf": "0", "x264-params": "scenecut=0"})
    broken = damaged(data, 35)
    assert about(broken).frames == FRAMES
    assert np.array_equal(read_frames(broken, [5, 50]), decoded(data)[[5, 50]].transpose(0, 3, 1, 2))
    with pytest.raises(DecodeError), open_video(broken) as video:
        video.check()
    with pytest.raises(DecodeError):
        read_frames(broken, [35])


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'mimcore\[video\]'"):
        about(b"an mp4, perhaps")
