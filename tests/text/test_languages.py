import pytest

from humanpref.text.languages import CHARACTERS, language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The weather is fine and that is all.", "english"),
        ("Das ist nicht schlecht und der Wind ist mild.", "german"),
        ("Je ne sais pas ce que vous dites dans les rues.", "french"),
        ("¿Qué es lo más importante para los alumnos?", "spanish"),
        ("Não sei como é que os dias são.", "portuguese"),
        ("Non so che cosa sono gli altri.", "italian"),
        ("Как это по-русски?", "russian"),
        ("你好，世界。 ok", "cjk"),
        ("مرحبا بالعالم", "arabic"),
        ("Καλημέρα κόσμε", "other script"),
        ("xyzzy plugh", None),
        ("42! 🙂", None),
        ("", None),
        ("\ud83d\U0010ffff", None),
    ],
)
def test_languages_and_scripts(text, language):
    assert language_of((text,)) == language


def test_the_beginning_decides():
    start = ("Das ist nicht gut. " * CHARACTERS)[:CHARACTERS]
    assert language_of((start, "你好" * CHARACTERS)) == "german"
    assert language_of(()) is None
