"""What the arena is made of: the chat models, the kinds of prompts, and the words.

A word belongs to one group or topic only: otherwise the text would not show what the truth reads.
"""

import numpy as np
import pandas as pd


def _words(text: str) -> np.ndarray:
    return np.array(text.split(), dtype=object)


MODELS = pd.DataFrame.from_dict(
    {
        "harrowgate-xl": (0.95, 0.25, 3.0),
        "quillow-70b-chat": (0.8, 0.10, 2.0),
        "tamarel-2.1": (0.65, -0.15, 3.0),
        "fennimore-pro": (0.5, 0.30, 1.0),
        "harrowgate-base": (0.35, -0.05, 2.0),
        "brindlewick-34b": (0.22, 0.20, 1.0),
        "tamarel-1": (0.1, -0.30, 2.0),
        "sorrelworth-13b": (0.0, 0.15, 1.0),
        "oakmere-instruct": (-0.1, -0.10, 1.0),
        "quillow-13b-chat": (-0.22, 0.25, 1.0),
        "dunlinfield-12b": (-0.38, -0.25, 0.8),
        "mirkwater-6b": (-0.5, 0.10, 0.8),
        "fennimore-mini": (-0.65, -0.35, 0.7),
        "sorrelworth-7b": (-0.8, 0.05, 0.7),
        "tansyfield-alpha-7b": (-0.95, -0.20, 0.6),
    },
    orient="index",
    columns=["strength", "verbosity", "popularity"],
)
"""Invented chat models, strongest first: strength (log-odds against a model of strength 0),
verbosity (log of a factor on the number of words) and popularity (relative frequency)."""

KINDS = pd.DataFrame.from_dict(
    {
        "factual": (0.34, -0.45, 100, 0.95),
        "code": (0.15, -0.35, 190, 0.75),
        "advice": (0.21, 0.0, 220, 0.50),
        "creative": (0.18, 0.55, 200, 0.10),
        "chat": (0.12, 0.8, 40, 0.0),
    },
    orient="index",
    columns=["share", "nu", "words", "asks"],
)
"""Kinds of prompts: share of the prompts, tie score, median words per answered turn, and the share
that asks a question with a checkable answer."""

LANGUAGE_SHARES = (0.92, 0.05, 0.03)
"""English, Chinese, Russian: the order of `OPENERS`."""

OPENERS = {
    "factual": (
        ("Explain the facts about", "What is known about", "Give a correct account of"),
        ("请准确说明事实", "请解释原理"),
        ("Объясни факты про", "Что известно про"),
    ),
    "code": (
        ("Write a python function for", "Debug my program about", "Implement an algorithm for"),
        ("请写一个程序处理", "请调试代码"),
        ("Напиши программу про", "Исправь код про"),
    ),
    "advice": (
        ("Give me advice on", "Help me plan my", "Suggest steps for"),
        ("请给我建议关于", "请帮我计划"),
        ("Посоветуй план про", "Помоги мне выбрать про"),
    ),
    "creative": (
        ("Write a poem about", "Tell me a story with", "Imagine a song of"),
        ("请写一首诗关于", "请讲一个故事"),
        ("Сочини стихи про", "Расскажи сказку про"),
    ),
    "chat": (
        ("Hey, let us chat about", "I feel like talking about", "Good morning, do you like"),
        ("你好，聊聊", "今天心情好，谈谈"),
        ("Привет, поболтаем про", "Доброе утро, любишь ли"),
    ),
}

GREETING = "Hello, how is your garden today?"
GREETING_TOPIC = 2  # the garden's place in TOPICS
FOLLOW_UPS = (
    "And what about",
    "Please go on with",
    "Thanks, now say more on",
    "How does it change",
)
CODE_BLOCKS = (
    "```python\nfor item in basket:\n    total += item\nprint(total)\n```",
    "```python\ndef solve(values):\n    return sorted(values)\n```",
    '```json\n{"name": "value", "count": 3}\n```',
)

PRECISE = _words("""
    exactly verified namely measured therefore specifically evidence precisely derived confirmed
    accurate quantified documented rigorous consequently demonstrated concrete explicit established
    detailed""")
VAGUE = _words("""
    maybe stuff somehow basically things kinda whatever somewhat sorta probably anyway supposedly
    hopefully guess honestly vaguely""")
MISSPELLED = _words("""
    teh recieve definately wich becuase thier seperate beleive untill alot""")
PLAIN = _words("""
    the a of to and in is that for it as with on are by this be from or an at can which not but have
    they also when will more their each other into some its these most over where while use made
    both many such through only new way part may would so there all been often used well up out how
    between good work take place help find keep set main long small""")
TOPICS = _words("""
    oven recipe flour butter garlic soup pepper roast
    onion sauce knead simmer dough pan spice bake
    planet orbit comet galaxy telescope lunar eclipse star
    nebula meteor crater solar cosmic asteroid satellite dwarf
    garden soil seed compost prune bloom lawn shrub
    weed rose tulip hedge fern mulch bulb root
    guitar melody chord tempo violin piano choir drum
    opera rhythm flute concert tune harp scale cello
    sail harbour anchor mast tide rudder deck hull
    captain voyage keel rope wharf lighthouse crew buoy
    doctor fever vaccine surgery clinic nurse symptom artery
    tablet lung dose patient allergy therapy nerve virus
    bank loan budget interest market stock pension invoice
    tax profit asset credit dividend ledger fund wage
    rock granite lava fossil crystal quartz basalt volcano
    mineral magma slate cave sediment fault erosion glacier
    football goal referee striker league penalty coach stadium
    tackle keeper pitch corner trophy fans midfield pass
    king empire castle treaty knight siege revolt throne
    dynasty monk crown legion parliament feudal archive war
    atom acid molecule enzyme catalyst solvent oxide polymer
    salt electron carbon reaction isotope ion alkali reagent
    rain storm cloud thunder frost humid breeze drought
    snow forecast hail fog monsoon climate sunshine wind
    horse wolf owl salmon beaver otter falcon rabbit
    badger nest herd hoof feather whale fox burrow
    train station ticket platform rail locomotive carriage signal
    tunnel conductor freight track depot express bridge gauge
    """).reshape(14, 16)  # a topic takes two lines

THINGS = _words("lamp kettle mirror ladder pencil basket hammer pillow bottle candle")
NUMBERS = _words("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen""")
COMPARISONS = (
    ("heavier", "lighter"),
    ("older", "newer"),
    ("larger", "smaller"),
    ("cheaper", "dearer"),
)

# How a sentence opens (its first word in place of {}) and closes, by layout of the answer:
# prose, paragraphs, a list, a numbered list, headings.
LAYOUTS = (
    ("{}", ". "),
    ("{}", ".\n\n"),
    ("- {}", ".\n"),
    ("1. **{}**", ".\n"),
    ("### {}", ".\n\n"),
)
LAYOUT_SHARES = (0.35, 0.25, 0.15, 0.15, 0.10)
