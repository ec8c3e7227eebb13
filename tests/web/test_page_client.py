"""The checks that every page goes through can fail: each rule, one page that breaks it."""

import pytest

from tests.web.page_client import PageFault, check_page

GOOD = '<!doctype html><html lang="en"><head><title>Hello - X</title></head><body><h1>Hello</h1>{}</body></html>'


def test_a_good_page_passes() -> None:
    check_page(GOOD.format('<form method="post"><input type="hidden" name="csrf" value="' + "a" * 64 + '"></form>'))


@pytest.mark.parametrize(
    "body",
    [
        "<h1>Twice</h1>",
        '<p id="a"></p><p id="a"></p>',
        "<p><div></p></div>",
        "<script>alert(1)</script>",
        '<p style="color:red">x</p>',
        '<a href="#" onclick="x()">x</a>',
        '<a href="javascript:x()">x</a>',
        '<script src="https://cdn.example/x.js"></script>',
        '<img src="//cdn.example/x.png" alt="">',
        '<iframe src="/x" title="x"></iframe>',
        '<iframe sandbox="allow-scripts" src="/x" title="x"></iframe>',
        '<iframe sandbox src="https://elsewhere.example/x" title="x"></iframe>',
        '<iframe sandbox src="/x"></iframe>',
        '<form method="post"><button>go</button></form>',
        '<form method="post"><input type="hidden" name="csrf" value=""><button>go</button></form>',
        '<input name="q">',
        "<button></button>",
        '<label for="nowhere">x</label>',
        "<progress></progress>",
    ],
)
def test_a_page_that_breaks_a_rule_is_refused(body: str) -> None:
    with pytest.raises(PageFault):
        check_page(GOOD.format(body))


def test_a_title_that_does_not_start_with_the_heading_is_refused() -> None:
    with pytest.raises(PageFault):
        check_page(GOOD.format("").replace("<title>Hello", "<title>Other"))


def test_an_unescaped_name_makes_invalid_or_scripted_html() -> None:
    with pytest.raises(PageFault):
        check_page(GOOD.format('<p><img src=x onerror="alert(1)"></p>'))
