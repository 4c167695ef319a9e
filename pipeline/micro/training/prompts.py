"""Prompts of the micro checkpoint: a small grammar with many phrases for each motion.

`say` draws one prompt for a motion. Half of it is deliberate noise (subjects, places, styles),
because the text encoder must find the motion in prompts as people write them.
"""

import random

from pipeline.micro.training.motions import Motion


def alternatives(text: str) -> tuple[str, ...]:
    """Split alternatives at bars."""
    return tuple(part.strip() for part in text.split("|"))


NOUNS = alternatives(
    "cat | dog | bird | horse | cow | sheep | fish | boat | ship | car | truck | train | plane | "
    "bicycle | bus | house | castle | church | bridge | tower | road | street | city | village | "
    "mountain | hill | river | lake | sea | ocean | beach | island | forest | tree | flower | "
    "garden | field | meadow | desert | sky | cloud | sun | moon | star | rain | snow | fire | "
    "smoke | man | woman | child | girl | boy | person | crowd | face | portrait | hand | head | "
    "eye | table | chair | sofa | bed | lamp | window | door | wall | room | kitchen | book | "
    "paper | letter | clock | phone | robot | dragon | king | queen | dancer | singer | guitar | "
    "piano | cup | glass | bottle | plate | apple | orange | cake | bread | coffee | candle | "
    "balloon | kite | ball | toy | lion | tiger | elephant | rabbit | fox | wolf | deer | swan | "
    "eagle | owl | butterfly | circle | square | triangle | shape | pattern | picture | image | "
    "photograph | painting | drawing | logo | board | wheel | rocket | planet | galaxy | "
    "landscape | sunset | night | winter | summer | astronaut"
)
ADJECTIVES = alternatives(
    "red | green | blue | yellow | orange | purple | pink | black | white | grey | golden | dark "
    "| bright | old | new | big | small | tall | tiny | beautiful | pretty | happy | sad | wooden "
    "| metal | stone | wet | cold | warm | misty | sunny | cloudy | quiet | busy | empty | round "
    "| soft | shiny | fluffy | ancient | modern | mysterious | lonely | wild | calm | left | "
    "right | upper"
)
PLACES = alternatives(
    "on a table | in the sky | in a field | at night | by the sea | in the snow | in the rain | "
    "under a tree | on the street | in a room | near the river | in front of a house | on the "
    "beach | in the garden | at sunset | in the forest | in space | on a hill | under water | in "
    "the city | on the left | on the right | up in the mountains | down in the valley | in the "
    "background"
)
STYLES = alternatives(
    "cinematic | 4k | high quality | detailed | realistic | masterpiece | film grain | soft light "
    "| best quality | dramatic lighting | shallow depth of field | smooth motion | smooth | video "
    "| documentary style | watercolor | slow motion"
)
ADVERBS = ("", "", "", "slowly", "gently", "smoothly", "steadily", "softly", "a little", "slightly")
THINGS = ("the scene", "it", "everything", "the picture", "the image", "the view", "the object")

CAMERA = alternatives(
    "pan {w} | pan to the {w} | panning {w} | panning to the {w} | camera pan {w} | camera "
    "panning {w} | camera panning to the {w} | the camera pans {w} | the camera pans {a} to the "
    "{w} | camera moves {w} | camera moving {w} | camera moving {a} to the {w} | the camera moves "
    "{a} {w} | camera slides {w} | the camera is panning {a} {w} | slow pan {w} | slow pan to the "
    "{w} | tracking shot {w} | dolly {w} | {a} panning {w} | camera pan to the {w} | camera "
    "travels {w} | camera tracking {w} | {w} pan"
)
TILT = alternatives(
    "tilt {w} | tilting {w} | camera tilts {a} {w} | camera tilting {w} | crane {w} | looking {w}"
)
OBJECT = alternatives(
    "{s} moves {w} | {s} moving {w} | {s} moves {a} {w} | moving {w} | moving {a} to the {w} | "
    "{s} drifts {w} | drifting {w} | {s} slides {a} {w} | sliding {w} | {s} goes {w} | flying {w}"
)
TOWARDS = {
    Motion.PAN_RIGHT: ("right",),
    Motion.PAN_LEFT: ("left",),
    Motion.TILT_UP: ("up", "upwards"),
    Motion.TILT_DOWN: ("down", "downwards"),
}
AGAINST = {  # a thing that moves left is a camera that pans right
    Motion.PAN_RIGHT: ("left",),
    Motion.PAN_LEFT: ("right",),
    Motion.TILT_UP: ("down", "downwards"),
    Motion.TILT_DOWN: ("up", "upwards"),
}
PHRASES = {
    Motion.TILT_UP: alternatives(
        "camera rising | camera rises {a} | {s} falls {a} | falling | sinking {a}"
    ),
    Motion.TILT_DOWN: alternatives(
        "camera lowering | camera descends {a} | {s} rises {a} | lifting off | ascending"
    ),
    Motion.ZOOM_IN: alternatives(
        "zoom in | zooming in | zooming in {a} | {a} zoom in | camera zoom in | camera zooming in "
        "| camera zooms in {a} | the camera zooms in | the camera zooms {a} in | slow zoom in | "
        "zoom in on {s} | zooming in on {s} | dolly in | push in | camera pushes in | moving "
        "closer | camera moves closer | coming closer | camera moving forward | flying forward | "
        "move forward | getting bigger | {s} gets bigger | zoom | zooming | slow zoom | "
        "approaching"
    ),
    Motion.ZOOM_OUT: alternatives(
        "zoom out | zooming out | zooming out {a} | {a} zoom out | camera zoom out | camera "
        "zooming out | camera zooms out {a} | the camera zooms out | the camera zooms {a} out | "
        "slow zoom out | zoom out from {s} | dolly out | pull out | pull back | camera pulls back "
        "| moving away | camera moves away | camera moving backward | flying backward | move back "
        "| getting smaller | {s} gets smaller | receding"
    ),
    Motion.CLOCKWISE: alternatives(
        "rotate | rotating | rotating {a} | {a} rotating | rotates {a} | {s} rotates {a} | slow "
        "rotation | rotate clockwise | rotating clockwise | rotating {a} clockwise | turning "
        "clockwise | spinning | spinning {a} | spin clockwise | clockwise rotation | rotation | "
        "{s} spins {a} | rotate right | rotating to the right | revolving {a} | clockwise | "
        "turning around"
    ),
    Motion.COUNTERCLOCKWISE: alternatives(
        "rotate counterclockwise | rotating counterclockwise | rotating {a} counterclockwise | "
        "turning counterclockwise | spin counterclockwise | counterclockwise rotation | rotate "
        "counter-clockwise | rotating counter-clockwise | rotating anticlockwise | anticlockwise "
        "| counterclockwise | slow counterclockwise rotation | rotate left | rotating to the left"
    ),
    Motion.STILL: alternatives(
        "still | still picture | static | static shot | static camera | no motion | no movement | "
        "motionless | not moving | frozen | fixed camera | stationary | standing still | "
        "completely still | {s} stays still | locked camera | stay still | a still image | "
        "nothing moves"
    ),
    Motion.GENTLE: alternatives(
        "{s} turns {a} | turning {a} | turning its head {a} | smiling | blinking | breathing | "
        "walking {a} | running | talking | dancing {a} | swaying {a} | waving | waves | waving in "
        "the wind | gentle waves | flowing | rippling | fluttering | floating {a} | blowing in "
        "the wind | living | playing | sitting | sleeping | looking around | burning | shining | "
        "flickering | gentle motion | some motion | moving {a}"
    ),
}
NEGATIVES = (
    "",
    "",
    "distorted, discontinuous, ugly, blurry, low resolution, motionless, static, disfigured,"
    " disconnected limbs, ugly faces, incomplete arms",
    "blurry, low quality",
    "worst quality, static",
    "text, watermark, blurry",
    "bad anatomy, low resolution, jpeg artifacts",
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def subject(rng: random.Random) -> str:
    """Draw a subject such as "the old boat", sometimes with a non-word."""
    noun = rng.choice(NOUNS)
    if rng.random() < 0.08:
        noun = "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 9)))
    adjective = rng.choice(ADJECTIVES) + " " if rng.random() < 0.5 else ""
    return rng.choice(("a ", "the ", "", "one ", "two ")) + adjective + noun


def phrase(rng: random.Random, motion: Motion) -> str:
    """Draw the phrase for a motion; empty for some gentle prompts."""
    if motion is Motion.GENTLE and rng.random() < 0.3:
        return ""
    if motion in TOWARDS:
        templates = [(CAMERA, TOWARDS), (CAMERA, TOWARDS), (OBJECT, AGAINST)]
        if motion in PHRASES:
            templates += [(TILT, TOWARDS), (PHRASES[motion], TOWARDS)]
        words, ways = rng.choice(templates)
        text = rng.choice(words).replace("{w}", rng.choice(ways[motion]))
    else:
        text = rng.choice(PHRASES[motion])
    thing = rng.choice(THINGS) if rng.random() < 0.4 else subject(rng)
    return text.replace("{a}", rng.choice(ADVERBS)).replace("{s}", thing)


def say(rng: random.Random, motion: Motion) -> str:
    """Draw one prompt for `motion`."""
    words = phrase(rng, motion)
    parts = []
    if not words or rng.random() < 0.6:
        scene = subject(rng)
        if rng.random() < 0.3:
            scene += " and " + subject(rng)
        if rng.random() < 0.5:
            scene += " " + rng.choice(PLACES)
        parts.append(scene)
    if words:
        parts.insert(rng.randint(0, len(parts)), words)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
        parts.insert(rng.randint(1, len(parts)), rng.choice(STYLES))
    text = " ".join(rng.choice((", ", ", ", ", ", " ", ". ", " while ")).join(parts).split())
    if rng.random() < 0.3:
        text = text.capitalize()
    return text + "." if rng.random() < 0.15 else text
