"""The words of the drawn catalogue: H&M's category names, descriptions and web-style captions.

`describe` writes in the manner of a shop (short clauses, fabric first, details a photo cannot
show); `web_caption` writes alt text. Phrasing is drawn, not fixed: the same garment has thousands
of descriptions, so a captioner trained on them is scored against wording it cannot foresee.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

# code: (name, group_no, group_name)
INDEXES: dict[str, tuple[str, int, str]] = {
    "A": ("Ladieswear", 1, "Ladieswear"),
    "C": ("Ladies Accessories", 1, "Ladieswear"),
    "D": ("Divided", 2, "Divided"),
    "F": ("Menswear", 3, "Menswear"),
    "S": ("Sport", 26, "Sport"),
}
SECTIONS: dict[int, str] = {
    5: "Ladies H&M Sport",
    6: "Womens Casual",
    11: "Womens Tailoring",
    15: "Womens Everyday Collection",
    16: "Womens Everyday Basics",
    18: "Womens Trend",
    19: "Womens Jackets",
    20: "Contemporary Smart",
    21: "Contemporary Casual",
    22: "Men H&M Sport",
    23: "Men Suits & Tailoring",
    25: "Men Accessories",
    27: "Men Shoes",
    31: "Mens Outerwear",
    51: "Divided Basics",
    52: "Divided Accessories",
    53: "Divided Collection",
    55: "Contemporary Street",
    56: "Denim Men",
    57: "Ladies Denim",
    64: "Womens Shoes",
    65: "Womens Big accessories",
}
GARMENT_GROUPS: dict[int, str] = {
    1002: "Jersey Basic",
    1003: "Knitwear",
    1005: "Jersey Fancy",
    1007: "Outdoor",
    1008: "Dressed",
    1009: "Trousers",
    1010: "Blouses",
    1011: "Shirts",
    1012: "Skirts",
    1013: "Dresses Ladies",
    1016: "Trousers Denim",
    1019: "Accessories",
    1020: "Shoes",
    1025: "Shorts",
}
# name: (colour_group_code, value_id, value_name, master_id, master_name, RGB, words a text may use)
COLOURS: dict[str, tuple[int, int, str, int, str, tuple[int, int, int], tuple[str, ...]]] = {
    "Black": (9, 4, "Dark", 5, "Black", (38, 37, 40), ("black",)),
    "White": (10, 3, "Light", 9, "White", (240, 240, 238), ("white",)),
    "Light Grey": (6, 1, "Dusty Light", 12, "Grey", (190, 191, 193), ("light grey", "pale grey")),
    "Dark Grey": (8, 4, "Dark", 12, "Grey", (92, 94, 99), ("dark grey", "charcoal grey")),
    "Beige": (13, 2, "Medium Dusty", 11, "Beige", (205, 181, 148), ("beige", "sand beige")),
    "Yellowish Brown": (
        17,
        2,
        "Medium Dusty",
        13,
        "Brown",
        (139, 95, 59),
        ("brown", "camel brown"),
    ),
    "Dark Blue": (73, 4, "Dark", 2, "Blue", (43, 53, 86), ("dark blue", "navy blue")),
    "Blue": (72, 2, "Medium Dusty", 2, "Blue", (62, 105, 172), ("blue", "cobalt blue")),
    "Light Blue": (71, 1, "Dusty Light", 2, "Blue", (160, 191, 222), ("light blue", "sky blue")),
    "Light Turquoise": (81, 3, "Light", 7, "Turquoise", (122, 197, 193), ("turquoise", "aqua")),
    "Dark Green": (93, 4, "Dark", 19, "Green", (41, 82, 65), ("dark green", "forest green")),
    "Greenish Khaki": (19, 4, "Dark", 20, "Khaki green", (112, 113, 79), ("khaki green", "olive")),
    "Yellow": (22, 7, "Medium", 8, "Yellow", (236, 196, 76), ("yellow", "mustard yellow")),
    "Orange": (32, 5, "Bright", 3, "Orange", (232, 126, 62), ("orange", "burnt orange")),
    "Red": (42, 7, "Medium", 18, "Red", (198, 44, 48), ("red", "bright red")),
    "Dark Red": (43, 4, "Dark", 18, "Red", (118, 38, 51), ("dark red", "burgundy")),
    "Light Pink": (51, 1, "Dusty Light", 4, "Pink", (236, 190, 193), ("light pink", "powder pink")),
    "Light Purple": (61, 3, "Light", 6, "Lilac Purple", (181, 163, 207), ("light purple", "lilac")),
}
# name: (graphical_appearance_no, graphical_appearance_name, words a text may use)
PATTERNS: dict[str, tuple[int, str, tuple[str, ...]]] = {
    "solid": (1010016, "Solid", ()),
    "striped": (1010017, "Stripe", ("striped", "stripe-patterned")),
    "checked": (1010004, "Check", ("checked", "check-patterned")),
    "dotted": (1010006, "Dot", ("dotted", "spotted", "polka-dot")),
    "floral": (1010001, "All over pattern", ("floral", "flower-patterned", "patterned")),
    "leopard": (1010013, "Other pattern", ("leopard-print", "animal-patterned", "patterned")),
    "printed": (1010008, "Front print", ("printed",)),
    "melange": (1010010, "Melange", ("marled", "mélange")),
    "colour-block": (1010005, "Colour blocking", ("block-coloured", "colour-block")),
    "denim": (1010023, "Denim", ("washed", "sturdy")),
    "glitter": (1010009, "Glittering/Metallic", ("glittery", "shimmering")),
}


@dataclass(frozen=True)
class Garment:
    """One product type: its place in H&M's hierarchy and the traits it can take.

    `placements` are (index_code, section_no, garment_group_no, department_no, department_name);
    `price` is the typical price on H&M's scale (about 0.0017 of a unit of currency).
    """

    type_no: int
    group: str
    share: float
    price: float
    placements: tuple[tuple[str, int, int, int, str], ...]
    nouns: tuple[str, ...]
    alt: tuple[str, ...]
    fabrics: tuple[str, ...]
    patterns: tuple[str, ...]
    details: tuple[str, ...]
    lengths: tuple[str, ...] = ("",)
    necklines: tuple[str, ...] = ("",)
    sleeves: tuple[str, ...] = ("",)
    fits: tuple[str, ...] = ("slim", "regular", "relaxed", "oversized")


_UPPER, _LOWER, _FULL = "Garment Upper body", "Garment Lower body", "Garment Full body"
_WOVEN = ("solid", "striped", "checked", "dotted", "floral", "leopard", "denim")
_JERSEY = ("solid", "striped", "melange", "printed", "colour-block", "dotted", "floral", "leopard")
_KNIT = ("solid", "striped", "melange", "colour-block", "glitter", "checked")
_PLAIN = ("solid", "checked", "melange")

GARMENTS: dict[str, Garment] = {
    "T-shirt": Garment(
        255, _UPPER, 1.3, 0.014,
        (("D", 53, 1005, 1640, "Tops Fancy Jersey"), ("A", 16, 1002, 1676, "Jersey Basic"),
         ("A", 6, 1005, 1660, "Jersey"), ("F", 55, 1005, 5882, "Jersey Fancy"),
         ("F", 20, 1005, 5828, "Jersey Fancy")),
        ("T-shirt",), ("t-shirt", "tee", "tee shirt"),
        ("cotton jersey", "slub jersey", "viscose jersey", "piqué", "modal jersey"),
        _JERSEY, ("chest pocket", "ribbed neckline", "slits", "turn-ups"),
        ("cropped", "regular", "long"), ("round", "v-neck"), ("short", "elbow"),
    ),
    "Vest top": Garment(
        253, _UPPER, 0.8, 0.010,
        (("D", 51, 1002, 1643, "Basic 1"), ("A", 16, 1002, 1676, "Jersey Basic"),
         ("D", 53, 1010, 1543, "Tops Woven"), ("A", 15, 1005, 1636, "Jersey fancy")),
        ("Vest top", "Top", "Strappy top"), ("vest", "tank top", "sleeveless top"),
        ("cotton jersey", "ribbed jersey", "satin", "crêpe weave", "microfibre"),
        _JERSEY, ("lace trim", "ribbed neckline", "gathers"),
        ("cropped", "regular"), ("round", "v-neck", "square"), ("strappy", "sleeveless"),
    ),
    "Blouse": Garment(
        258, _UPPER, 1.0, 0.023,
        (("A", 15, 1010, 1522, "Blouse"), ("A", 11, 1010, 1515, "Blouse"),
         ("D", 53, 1010, 1543, "Tops Woven"), ("A", 6, 1010, 1510, "Blouse")),
        ("Blouse",), ("blouse", "women's blouse", "ladies top"),
        ("chiffon", "viscose weave", "crêpe weave", "satin", "cotton poplin", "plumeti chiffon"),
        ("solid", "dotted", "floral", "striped", "leopard", "glitter"),
        ("frill", "tie", "gathers", "covered buttons"),
        ("regular", "long"), ("v-neck", "round", "stand-up collar", "square"),
        ("long", "puff", "3/4-length", "short"),
    ),
    "Shirt": Garment(
        259, _UPPER, 0.9, 0.026,
        (("F", 21, 1011, 5767, "Shirt"), ("F", 20, 1011, 5777, "Shirt"),
         ("D", 53, 1010, 1543, "Tops Woven"), ("F", 23, 1011, 5731, "Shirt")),
        ("Shirt",), ("shirt", "button-up shirt", "button-down"),
        ("cotton poplin", "oxford cotton", "linen blend", "twill", "flannel", "lyocell weave"),
        _WOVEN, ("chest pocket", "two chest pockets", "rounded hem", "turn-ups"),
        ("regular", "long"), ("collar", "stand-up collar"), ("long", "short"),
    ),
    "Sweater": Garment(
        252, _UPPER, 1.2, 0.029,
        (("D", 53, 1003, 1647, "Tops Knitwear"), ("A", 15, 1003, 1626, "Knitwear"),
         ("F", 20, 1003, 5878, "Knitwear"), ("A", 6, 1003, 1610, "Knitwear")),
        ("Jumper", "Sweater"), ("sweater", "jumper", "pullover"),
        ("soft knit", "rib knit", "wool blend", "cotton knit", "cashmere blend", "chunky knit"),
        _KNIT, ("cable knit", "ribbed hem", "slits", "dropped shoulders"),
        ("cropped", "regular", "long"), ("round", "v-neck", "turtle neck"), ("long",),
    ),
    "Cardigan": Garment(
        245, _UPPER, 0.7, 0.031,
        (("D", 53, 1003, 1647, "Tops Knitwear"), ("A", 15, 1003, 1626, "Knitwear"),
         ("A", 16, 1003, 1646, "Knitwear Basic")),
        ("Cardigan",), ("cardigan", "knit cardigan", "open front sweater"),
        ("soft knit", "rib knit", "wool blend", "cotton knit", "mohair blend", "chunky knit"),
        _KNIT, ("patch pockets", "ribbed hem", "dropped shoulders"),
        ("cropped", "regular", "long"), ("v-neck", "round"), ("long",),
    ),
    "Hoodie": Garment(
        308, _UPPER, 0.8, 0.029,
        (("F", 55, 1005, 5882, "Jersey Fancy"), ("D", 51, 1002, 1643, "Basic 1"),
         ("D", 53, 1005, 1640, "Tops Fancy Jersey"), ("S", 22, 1005, 8558, "Men Sport Tops")),
        ("Hoodie", "Hooded top"), ("hoodie", "hooded sweatshirt", "sweatshirt with hood"),
        ("sweatshirt fabric", "cotton-blend sweatshirt fabric", "fleece", "scuba fabric"),
        ("solid", "melange", "printed", "colour-block", "striped"),
        ("kangaroo pocket", "zip front", "drawstring"),
        ("cropped", "regular", "long"), ("hood",), ("long",),
    ),
    "Jacket": Garment(
        262, _UPPER, 0.9, 0.055,
        (("A", 19, 1007, 1201, "Outwear"), ("D", 53, 1007, 1244, "Outdoor/Blazers"),
         ("F", 31, 1007, 5252, "Jacket Casual"), ("F", 31, 1007, 5283, "Jacket Street")),
        ("Jacket",), ("jacket", "zip jacket", "outdoor jacket"),
        ("imitation leather", "nylon", "cotton twill", "imitation suede", "padded weave", "pile"),
        ("solid", "denim", "checked", "colour-block"),
        ("flap pockets", "quilting", "zip pockets", "chest pocket"),
        ("cropped", "regular"), ("stand-up collar", "collar", "hood"), ("long",),
    ),
    "Blazer": Garment(
        264, _UPPER, 0.6, 0.058,
        (("A", 11, 1008, 1212, "Suit"), ("A", 15, 1008, 1222, "Suit jacket"),
         ("F", 23, 1008, 5131, "Blazer"), ("D", 53, 1007, 1244, "Outdoor/Blazers")),
        ("Blazer", "Jacket"), ("blazer", "suit jacket", "tailored jacket"),
        ("stretch weave", "wool blend", "linen blend", "twill", "velvet", "crêpe weave"),
        ("solid", "checked", "striped", "melange"),
        ("double-breasted", "flap pockets", "chest pocket"),
        ("regular", "long"), ("lapels",), ("long",),
    ),
    "Coat": Garment(
        263, _UPPER, 0.6, 0.085,
        (("A", 19, 1007, 1201, "Outwear"), ("F", 31, 1007, 5262, "Jacket Smart"),
         ("D", 53, 1007, 1244, "Outdoor/Blazers")),
        ("Coat",), ("coat", "overcoat", "winter coat"),
        ("wool blend", "felted fabric", "cotton twill", "bouclé", "imitation shearling"),
        _PLAIN, ("tie belt", "double-breasted", "flap pockets"),
        ("knee-length", "calf-length", "short"), ("lapels", "collar", "hood"), ("long",),
    ),
    "Dress": Garment(
        265, _FULL, 1.6, 0.034,
        (("A", 15, 1013, 1322, "Dress"), ("D", 53, 1013, 1344, "Dresses"),
         ("A", 11, 1013, 1313, "Dress"), ("A", 16, 1002, 1676, "Jersey Basic")),
        ("Dress",), ("dress", "women's dress", "ladies frock"),
        ("viscose weave", "cotton jersey", "chiffon", "crêpe weave", "satin", "lace", "soft knit"),
        ("solid", "floral", "dotted", "striped", "leopard", "checked", "glitter"),
        ("tie belt", "flounce", "gathers", "buttons", "pleats"),
        ("short", "knee-length", "calf-length"), ("round", "v-neck", "square", "collar"),
        ("strappy", "sleeveless", "short", "long", "puff"),
    ),
    "Jumpsuit/Playsuit": Garment(
        267, _FULL, 0.5, 0.037,
        (("D", 53, 1013, 1344, "Dresses"), ("A", 15, 1009, 1722, "Trouser")),
        ("Jumpsuit", "Playsuit"), ("jumpsuit", "one-piece outfit", "romper"),
        ("viscose weave", "crêpe weave", "cotton weave", "linen blend", "jersey"),
        ("solid", "floral", "dotted", "striped"),
        ("tie belt", "buttons", "gathers", "side pockets"),
        ("short", "long"), ("v-neck", "square", "round"), ("strappy", "sleeveless", "short"),
    ),
    "Skirt": Garment(
        275, _LOWER, 0.9, 0.024,
        (("D", 53, 1012, 1444, "Skirts"), ("A", 15, 1012, 1422, "Skirt"),
         ("A", 11, 1012, 1414, "Skirt")),
        ("Skirt",), ("skirt", "women's skirt", "ladies skirt"),
        ("twill", "satin", "imitation suede", "crêpe weave", "jersey", "tulle", "corduroy"),
        _WOVEN, ("pleats", "buttons", "tie belt", "flounce", "slit"),
        ("short", "knee-length", "calf-length"), fits=("slim", "regular", "relaxed"),
    ),
    "Trousers": Garment(
        272, _LOWER, 1.5, 0.033,
        (("A", 15, 1009, 1722, "Trouser"), ("D", 53, 1009, 1747, "Trousers"),
         ("D", 57, 1016, 1772, "Denim Trousers"), ("F", 56, 1016, 5672, "Denim trousers"),
         ("F", 20, 1009, 5686, "Trouser")),
        ("Trousers",), ("trousers", "pants", "slacks"),
        ("stretch twill", "cotton weave", "linen blend", "crêpe weave", "corduroy", "jersey"),
        ("solid", "denim", "checked", "striped", "melange"),
        ("creases", "elasticated waist", "turn-ups", "tie belt", "flap pockets"),
        ("ankle-length", "full-length", "cropped"),
    ),
    "Shorts": Garment(
        274, _LOWER, 0.8, 0.019,
        (("A", 15, 1025, 1723, "Shorts"), ("D", 53, 1025, 1745, "Shorts"),
         ("F", 21, 1025, 5658, "Shorts"), ("F", 20, 1025, 5687, "Shorts")),
        ("Shorts",), ("shorts", "short pants", "pair of shorts"),
        ("cotton twill", "linen blend", "sweatshirt fabric", "viscose weave", "cotton poplin"),
        ("solid", "denim", "striped", "checked", "floral", "melange"),
        ("elasticated waist", "drawstring", "turn-ups", "tie belt"),
        ("short", "knee-length"),
    ),
    "Bag": Garment(
        66, "Accessories", 0.6, 0.026,
        (("C", 65, 1019, 3209, "Bags"), ("D", 52, 1019, 3944, "Bags"),
         ("C", 65, 1019, 1920, "Small Bags")),
        ("Bag", "Handbag", "Shoulder bag"), ("bag", "handbag", "purse"),
        ("imitation leather", "imitation suede", "cotton canvas", "braided straw", "nylon"),
        ("solid", "colour-block", "leopard", "checked", "glitter"),
        ("flap", "metal clasp", "zip pocket", "chain strap"),
        ("small", "large"), fits=("regular",),
    ),
    "Sneakers": Garment(
        94, "Shoes", 0.7, 0.036,
        (("C", 64, 1020, 3828, "Sneakers"), ("F", 27, 1020, 3629, "Shoes"),
         ("D", 52, 1020, 3929, "Divided Shoes")),
        ("Trainers",), ("sneakers", "trainers", "sports shoes"),
        ("cotton canvas", "imitation leather", "mesh", "imitation suede", "satin"),
        ("solid", "colour-block", "striped", "checked", "glitter"),
        ("side stripe", "chunky soles", "heel tab"), ("low", "high"), fits=("regular",),
    ),
    "Boots": Garment(
        87, "Shoes", 0.5, 0.052,
        (("C", 64, 1020, 3529, "Boots"), ("F", 27, 1020, 3629, "Shoes"),
         ("D", 52, 1020, 3929, "Divided Shoes")),
        ("Boots",), ("boots", "fashion boots", "winter boots"),
        ("imitation leather", "leather", "imitation suede", "rubber"),
        ("solid", "leopard"), ("elastic gores", "lacing", "block heels"),
        ("ankle", "knee-high"), fits=("regular",),
    ),
    "Hat/beanie": Garment(
        75, "Accessories", 0.5, 0.013,
        (("D", 52, 1019, 3945, "Knit & Woven"), ("C", 65, 1019, 3519, "Gloves/Hats"),
         ("F", 25, 1019, 9985, "Accessories")),
        ("Hat", "Beanie"), ("beanie", "knit hat", "winter hat"),
        ("rib knit", "wool blend", "soft knit", "cashmere blend", "chunky knit"),
        ("solid", "melange", "striped", "colour-block"),
        ("pompom", "turn-up", "cable knit"), fits=("regular",),
    ),
    "Scarf": Garment(
        80, "Accessories", 0.5, 0.017,
        (("C", 65, 1019, 3409, "Scarves"), ("D", 52, 1019, 3945, "Knit & Woven"),
         ("F", 25, 1019, 9985, "Accessories")),
        ("Scarf",), ("scarf", "shawl", "neck scarf"),
        ("wool blend", "soft knit", "airy weave", "acrylic weave", "viscose weave"),
        ("solid", "checked", "striped", "melange", "dotted", "leopard"),
        ("fringes", "raw edges"), fits=("regular",),
    ),
}  # fmt: skip

# trait value: what a shop says for it (each a noun phrase that follows "with")
_NECK = {
    "round": ("a round neckline", "a round neck", "a wide, round neckline", "a crew neck"),
    "v-neck": ("a V-neck", "a V-neckline", "a deep V-neck", "a shallow V-neck at the front"),
    "square": ("a square neckline", "a straight-cut neckline", "a low-cut square neck"),
    "turtle neck": ("a turtle neck", "a ribbed polo neck", "a polo neck", "a high, foldover neck"),
    "collar": ("a collar", "a turn-down collar", "a classic collar", "a pointed collar"),
    "stand-up collar": ("a stand-up collar", "a small stand-up collar", "a grandad collar"),
    "lapels": ("notch lapels", "lapels", "peak lapels", "narrow notch lapels"),
    "hood": ("a hood", "a lined hood", "a drawstring hood", "a jersey-lined hood"),
}
_SLEEVE = {
    "strappy": ("narrow shoulder straps", "adjustable spaghetti straps", "thin shoulder straps"),
    "sleeveless": ("wide shoulder straps", "no sleeves", "a sleeveless cut", "wide armholes"),
    "short": ("short sleeves", "short raglan sleeves", "cap sleeves", "sewn cuffs on the sleeves"),
    "elbow": ("elbow-length sleeves", "wide sleeves to the elbow"),
    "3/4-length": ("3/4-length sleeves", "wide 3/4-length sleeves"),
    "long": ("long sleeves", "long sleeves with buttoned cuffs", "long raglan sleeves",
             "long, wide sleeves", "gently tapered sleeves"),
    "puff": ("long puff sleeves", "voluminous sleeves", "balloon sleeves with narrow cuffs"),
}  # fmt: skip
_DETAIL = {
    "chest pocket": ("a chest pocket", "an open chest pocket", "a patch pocket on the chest"),
    "two chest pockets": ("flap chest pockets", "two chest pockets"),
    "ribbed neckline": ("ribbing around the neckline", "a ribbed trim at the top"),
    "slits": ("slits in the sides", "a vent at each side"),
    "slit": ("a slit at the front", "a high slit", "a slit at the back"),
    "turn-ups": ("turn-ups", "sewn-in turn-ups at the hems", "rolled hems"),
    "lace trim": ("a lace trim", "lace edging at the top"),
    "gathers": ("gathers", "gathered seams for added volume", "a smocked section"),
    "frill": ("a frill trim", "a flounced yoke", "frills down the front"),
    "tie": ("ties at the neckline", "narrow ties at the top", "a tie detail"),
    "covered buttons": ("covered buttons down the front", "a row of small buttons"),
    "rounded hem": ("a rounded hem", "a gently rounded hem", "a hem slightly longer at the back"),
    "cable knit": ("a cable-knit front", "cables", "a textured cable pattern"),
    "ribbed hem": ("ribbing at the cuffs and hem", "ribbed trims", "wide ribbing at the hem"),
    "dropped shoulders": ("dropped shoulders", "low dropped shoulders"),
    "patch pockets": ("patch pockets", "two front pockets"),
    "kangaroo pocket": ("a kangaroo pocket", "a pouch pocket at the front"),
    "zip front": ("a zip down the front", "a two-way zip", "a zip at the front"),
    "drawstring": ("a drawstring", "ties in a contrasting colour", "a concealed drawstring"),
    "flap pockets": ("flap pockets", "front pockets with a flap", "flap side pockets"),
    "quilting": ("quilted sections", "diamond quilting", "light padding"),
    "zip pockets": ("zipped side pockets", "diagonal zip pockets", "discreet zip pockets"),
    "double-breasted": (
        "double-breasted buttons",
        "a double-breasted front",
        "two rows of buttons",
    ),
    "tie belt": ("a detachable tie belt", "a tie belt", "a narrow belt at the waist"),
    "flounce": ("a flounced hem", "a wide flounce at the hem", "tiers at the hem"),
    "buttons": ("buttons down the front", "decorative buttons", "wood-look buttons"),
    "pleats": ("pleats", "a pleated skirt section", "inverted pleats"),
    "creases": ("creases down the legs", "pressed creases", "pin-tucks down the legs"),
    "elasticated waist": ("an elasticated waist", "covered elastication at the waist"),
    "side pockets": ("side pockets", "discreet pockets in the side seams"),
    "flap": ("a foldover flap", "a flap at the front"),
    "metal clasp": ("a metal clasp", "a magnetic fastener", "a twist fastening"),
    "zip pocket": ("a zipped inner compartment", "an outer zip pocket"),
    "chain strap": ("a chain strap", "a narrow shoulder strap with a metal chain"),
    "side stripe": ("contrasting side stripes", "a stripe at the sides"),
    "chunky soles": ("chunky soles", "thick, fluted soles", "platform soles"),
    "heel tab": ("a contrasting heel tab", "a padded edge", "a loop at the back"),
    "elastic gores": ("elastic gores in the sides", "elasticated side panels"),
    "lacing": ("lacing at the front", "lacing and metal eyelets"),
    "block heels": ("covered block heels", "block heels", "sturdy heels"),
    "pompom": ("a pompom on top", "a fluffy pompom"),
    "turn-up": ("a turn-up hem", "a wide turn-up", "a foldover edge"),
    "fringes": ("fringes at the short ends", "fringed ends", "tasselled edges"),
    "raw edges": ("raw edges", "frayed edges"),
}
_EXTRA = {  # what a photo cannot show, by kind of garment
    _UPPER: ("side seams with a narrow tape", "a yoke at the back", "a shaped cut", "a soft finish",
             "a label at the back", "a straight-cut hem", "a concealed fastening"),
    _LOWER: ("a zip fly and button", "fake back pockets", "a high waist", "a concealed side zip",
             "a regular waist", "covered elastication at the back", "side pockets"),
    _FULL: ("a concealed zip at the back", "a seam at the waist", "an opening at the back",
            "a button at the back of the neck", "side pockets", "elastication at the waist"),
    "Accessories": ("a smooth lining", "a decorative label", "a soft inside", "tonal stitching"),
    "Shoes": ("a loop at the back", "a padded top edge", "a zip in one side", "tonal seams"),
}  # fmt: skip
_TAIL = {
    _UPPER: ("Unlined.", "Lined.", "Soft brushed inside.", "Made partly from recycled polyester.",
             "Partly lined.", "The cotton content is organic.", "Easy to layer."),
    _LOWER: ("Unlined.", "Lined.", "Cotton in the pocket linings.", "Partly lined.",
             "Made with organic cotton.", "Contains recycled fibres.", "Jersey lining."),
    _FULL: ("Unlined.", "Lined.", "Partly lined.", "Jersey lining.", "Lined at the top.",
            "The polyester content is recycled."),
    "Accessories": ("Unlined.", "Lined.", "Easy to style.", "Contains recycled wool.",
                    "Comes in a gift box.", "Made from recycled material."),
    "Shoes": ("Cotton canvas linings and insoles.", "Rubber soles.", "Jersey lining.",
              "Satin linings and imitation leather insoles.", "Patterned soles.",
              "Thermoplastic rubber soles."),
}  # fmt: skip
_FIT = {
    "slim": ("fitted", "slim-fit", "figure-hugging", "close-fitting"),
    "regular": ("straight-cut", "regular-fit", "gently shaped"),
    "relaxed": ("relaxed-fit", "loose-fitting", "wide", "airy"),
    "oversized": ("oversized", "boxy", "generously cut", "roomy"),
}
_LENGTH = {
    "cropped": ("cropped", "short", "waist-length"), "long": ("long", "longline"),
    "short": ("short", "mini"), "knee-length": ("knee-length", "knee-long"),
    "calf-length": ("calf-length", "midi", "long"), "ankle-length": ("ankle-length", "7/8-length"),
    "full-length": ("full-length", "long"), "ankle": ("ankle-high", "low"),
    "knee-high": ("knee-high", "tall"), "small": ("small", "compact"), "large": ("large", "roomy"),
    "low": ("low", "low-profile"), "high": ("high-top", "ankle-high"),
}  # fmt: skip
_FABRIC_WORDS = ("soft", "lightweight", "airy", "stretchy", "textured", "sturdy", "fluid", "smooth")
_FINE_WORDS = ("fine", "premium", "long-staple", "responsibly sourced", "high-quality")
_OCCASION = {
    "everyday": ("A wardrobe staple.", "Ideal for every day."),
    "office": ("Perfect for the office.", "Pairs well with tailoring."),
    "party": ("Made for festive evenings.", "Perfect for a party."),
    "outdoor": ("Water-repellent finish.", "Windproof and durable."),
    "holiday": ("Perfect for the beach.", "Made for sunny days."),
    "lounge": ("Perfect for lazy days at home.", "Cosy to lounge in."),
}
_SEASON = {
    "spring": ("An ideal layer in spring.",), "summer": ("Cool in warm weather.",),
    "autumn": ("Good for cooler days.",), "winter": ("Warm lining for cold days.",),
}  # fmt: skip
_STYLE = {
    "classic": ("classic", "timeless"), "sporty": ("sporty", "functional"),
    "romantic": ("romantic", "feminine"), "bohemian": ("bohemian-inspired", "crafted"),
    "minimal": ("minimalist", "clean-cut"), "street": ("urban", "retro"),
}  # fmt: skip
_NAMES = {
    "classic": ("Grace", "Oxford", "Sloane", "Harbour"), "sporty": ("Sprint", "Rally", "Court"),
    "romantic": ("Rosalie", "Petal", "Aria", "Belle"), "bohemian": ("Sahara", "Willow", "Juno"),
    "minimal": ("Plain", "Nord", "Line", "Form"), "street": ("Metro", "Block", "Echo", "Skate"),
}  # fmt: skip


def describe(
    trait_row: Mapping[str, object], rng: np.random.Generator, *, mention_colour: bool = False
) -> str:
    """A description in a shop's manner, 8 to 30 words.

    `trait_row` is one row of `DrawnCatalogue.traits`. It states the type always, most visible
    traits often, fabric usually, and fit, quality, occasion, season and style sometimes. The colour
    is named only with `mention_colour`, because colour variants share one text.
    """
    text = ""
    for _ in range(12):
        text = _description(trait_row, rng, mention_colour)
        if 8 <= len(text.split()) <= 30:
            return text
    return " ".join(text.split()[:29]).rstrip(",.") + "."


def web_caption(trait_row: Mapping[str, object], rng: np.random.Generator) -> str:
    """Alt text as on the web: colour and type, rarely a detail, lower case, no shop terms."""
    row = {key: str(value) for key, value in trait_row.items()}
    garment = GARMENTS[row["garment_type"]]
    noun = pick(rng, garment.alt)
    colour = pick(rng, COLOURS[row["colour"]][6])
    looks = PATTERNS[row["pattern"]][2]
    look = f"{pick(rng, looks)} " if looks and rng.random() < 0.7 else ""
    what = f"{colour} {look}{noun}" if rng.random() < 0.75 else f"{look}{colour} {noun}"
    extra = []
    if row["sleeve"] in ("short", "long") and rng.random() < 0.4:
        extra.append(f"{row['sleeve']} sleeves")
    if row["neckline"] in ("v-neck", "round", "hood", "collar") and rng.random() < 0.25:
        extra.append({"v-neck": "v neck", "round": "crew neck"}.get(row["neckline"], "a "
                     + row["neckline"]))  # fmt: skip
    tail = f" with {' and '.join(extra)}" if extra else ""
    place = pick(rng, ("on a white background", "on a plain background", "isolated on white",
                       "laid flat", "in a studio", ""))  # fmt: skip
    article = "" if noun.endswith(("s", "pants")) else "an " if what[0] in "aeiou" else "a "
    frame = pick(rng, ("a photo of {a}{w}{t} {p}", "a picture of {a}{w}{t} {p}", "{a}{w}{t} {p}",
                       "product photo: {w}{t} {p}", "close up of {a}{w}{t}", "{w}{t}, stock image",
                       "there is {a}{w}{t} {p}", "an image showing {a}{w}{t} {p}"))  # fmt: skip
    return " ".join(frame.format(a=article, w=what, t=tail, p=place).split())


def product_name(trait_row: Mapping[str, object], rng: np.random.Generator) -> str:
    """A product name: an invented first word and the garment's short noun."""
    noun = pick(rng, GARMENTS[str(trait_row["garment_type"])].nouns).split()[-1].lower()
    return f"{pick(rng, _NAMES[str(trait_row['style'])])} {noun}"


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of `values`, each as likely (`rng.choice` would turn str into np.str_)."""
    return values[int(rng.integers(len(values)))]


def _description(trait_row: Mapping[str, object], rng: np.random.Generator, colour: bool) -> str:
    row = {key: str(value) for key, value in trait_row.items()}
    garment = GARMENTS[row["garment_type"]]
    kind = garment.group
    noun = pick(rng, garment.nouns)
    before = _adjectives(row, rng)
    if row["sleeve"] in ("sleeveless", "short", "long") and rng.random() < 0.2:
        before.append({"sleeveless": "sleeveless"}.get(row["sleeve"], row["sleeve"] + "-sleeved"))
        row["sleeve"] = ""
    head = ", ".join(before)
    head = f"{head} {noun if noun.startswith('T-') else noun.lower()}" if head else noun
    clauses = _clauses(row, rng, kind)
    cloth = _cloth(row, rng, float(row["quality"]), colour)
    cut = int(rng.integers(1, 4)) if len(clauses) > 2 else len(clauses)
    first, rest = clauses[:cut], clauses[cut:]
    shape = rng.random()
    if cloth and shape < 0.75:
        lead = f"{head} in {_a(cloth)}"
        opening = f"{lead} with {_list(first)}." if first else f"{lead}."
    elif cloth:
        opening = f"{head} with {_list(first)}, made {pick(rng, ('from', 'in'))} {_a(cloth)}."
    else:
        opening = f"{head} with {_list(first)}."
    sentences = [opening[0].upper() + opening[1:]]
    if rest:
        line = _list(rest)
        line = line.removeprefix("a ").removeprefix("an ")
        sentences.append(line[0].upper() + line[1:] + ".")
    chance = rng.random(4)
    if chance[0] < 0.45:
        sentences.append(pick(rng, _TAIL[kind]))
    if chance[1] < 0.18:
        sentences.append(pick(rng, _OCCASION[row["occasion"]]))
    if chance[2] < 0.10:
        sentences.append(pick(rng, _SEASON[row["season"]]))
    return " ".join(sentences)


def _adjectives(row: Mapping[str, str], rng: np.random.Generator) -> list[str]:
    """Zero to two words before the noun."""
    found = []
    if row["length"] in _LENGTH and rng.random() < 0.55:
        found.append(pick(rng, _LENGTH[row["length"]]))
    if len(GARMENTS[row["garment_type"]].fits) > 1 and rng.random() < 0.5:
        word = pick(rng, _FIT[row["fit"]])
        found.insert(int(rng.integers(len(found) + 1)), word)
    if len(found) < 2 and rng.random() < 0.15:
        found.append(pick(rng, _STYLE[row["style"]]))
    return found


def _clauses(row: Mapping[str, str], rng: np.random.Generator, kind: str) -> list[str]:
    """Noun phrases that follow "with", in an order that is only partly the garment's."""
    found = []
    if row["neckline"] and rng.random() < 0.75:
        found.append(pick(rng, _NECK[row["neckline"]]))
    if row["sleeve"] and rng.random() < 0.7:
        found.append(pick(rng, _SLEEVE[row["sleeve"]]))
    for detail in filter(None, row["details"].split(", ")):
        if rng.random() < 0.75:
            found.append(pick(rng, _DETAIL[detail]))
    for _ in range(int(rng.integers(0, 3))):
        extra = pick(rng, _EXTRA[kind])
        if extra not in found:
            found.append(extra)
    if not found:
        found.append(pick(rng, _EXTRA[kind]))
    if len(found) > 1 and rng.random() < 0.4:
        found = [found[i] for i in rng.permutation(len(found))]
    return found[:5]


def _cloth(row: Mapping[str, str], rng: np.random.Generator, quality: float, colour: bool) -> str:
    """The fabric phrase, or "" where this text leaves the fabric out."""
    looks = PATTERNS[row["pattern"]][2]
    words = []
    if rng.random() < 0.45 - 0.2 * (quality > 0.7):
        words.append(pick(rng, _FABRIC_WORDS))
    elif quality > 0.7 and rng.random() < 0.5:
        words.append(pick(rng, _FINE_WORDS))
    if looks and rng.random() < 0.8:
        words.append(pick(rng, looks))
    if colour:
        words.append(pick(rng, COLOURS[row["colour"]][6]))
    if rng.random() < 0.12 and not colour:
        return ""
    if row["pattern"] == "denim":
        return " ".join([*dict.fromkeys(words), pick(rng, ("denim", "cotton denim"))])
    fabric = row["fabric"]
    return " ".join([*[w for w in words if w not in fabric.split()], fabric])


def _a(phrase: str) -> str:
    """`a`/`an` before a countable fabric ("a viscose weave"), nothing before a mass noun."""
    if not phrase.endswith(("weave", "knit", "blend")):
        return phrase
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
