"""The WordPiece vocabulary that the shipped models share.

It has to encode any English text, because the captioner is fine-tuned on real product texts: every
character is a piece, common words of shops and of English are whole pieces, and the rest is learnt
from drawn texts.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BertTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
SIGNS = "°½¼¾€£×’‘“”–—…®™"  # beyond ASCII, in real product texts
PAD, SEP, DEC = 0, 3, 5  # their ids; SEP must not be 2, where CLIP would pool at the largest id


def train_tokenizer(texts: Iterable[str], pieces: int = 2000) -> BertTokenizer:
    """A lower-casing WordPiece tokenizer that encodes every ASCII text without ``[UNK]``.

    `pieces` are learnt from `texts` and the lexicon; every word of the lexicon that they would
    still split is then added whole, because the captioner is fine-tuned on real descriptions later
    and each split word costs it decoding steps.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import BertTokenizer

    words = sorted(set(LEXICON.split()))
    alphabet = sorted(set(string.ascii_lowercase + string.digits + string.punctuation + SIGNS))
    inner = [f"##{c}" for c in alphabet if c.isalnum()]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=pieces,
        min_frequency=2,
        initial_alphabet=alphabet,
        # the trainer numbers inner letters in hash order and breaks ties by number: told them
        # beforehand, it gives the same pieces every time
        special_tokens=[*SPECIAL, *inner],
        show_progress=False,
    )
    tokenizer.train_from_iterator([*words, *words, *texts], trainer)
    learnt = {*tokenizer.get_vocab(), *words, *ENDINGS.split()} - set(SPECIAL)
    vocab = {piece: i for i, piece in enumerate([*SPECIAL, *sorted(learnt)])}
    return BertTokenizer(vocab=vocab, bos_token="[DEC]", model_max_length=96)  # noqa: S106


LEXICON = """
about above across adjustable adult after again against age ago air all almost along also always am
among an and anglaise animal ankle another any anyone apart applique are area arm armhole armholes
arms around as asymmetric at autumn away baby back backless backpack bag baggy bags balconette ball
ballerina band bandeau bands bar bare base baseball basic basics basket bath be beach bead beaded
beads beanie bear beautiful because been before beige bell belt belted best better between big
biker bikini black blanket blazer blazers blend block blocks bloomers blouse blouses blue bodice
body bodysuit bomber bonding boning book boot bootcut boots both bottom bottoms bow bowl box boxer
boxers boxy boy boyfriend boys bra bracelet bracelets braided braids brand bras brassiere breast
breathable breeze bridge brief briefs bright brim broad brocade broderie brown brush brushed buckle
buckles built bust button buttoned buttonhole buttons buy by cable calf call camisole can canvas
cap cape caps cardigan cardigans care cargo carry case cashmere casual cat centimetre chain change
charm check checked checks chelsea chest chic chiffon child children chinos choker chunky city
classic clean clear clip clogs close closure cloth clothes clothing cm coat coated coats cold
collar collarless collars collection colour coloured colours column come comfort comfortable
compartment complete composition concealed cone contain containing contains contrast contrasting
cool cord cords corduroy core corner corset cosy cotton could cover covered cream crease creases
crepe crew crinkled crochet crocheted crop cropped cross crossed crossover crotch cuff cuffed cuffs
culottes cup cups current curved cut cutout cuts dad daily dance dangling dark day dead deal
decoration decorations decorative deep delicate denim dense design designed designs detachable
detail details diagonal diameter different dipped dobby dog dot dots dotted double down drape
draped draping draw drawstring drawstrings dress dresses dressing dressy drop dropped dry drying
dungaree dungarees durable during each ear earring earrings ears ease easy edge edges edging either
elastane elastic elasticated elastication elegant embossed embroidered embroidery empire end ends
engraved enough espadrilles essential european even evening ever every everyday everything extended
extra eye eyelash eyelet eyelets fabric fabrics face faced fair fake fall false family fancy
fashion fast fasten fastened fastener fasteners fastening fastenings fastens faux favourite feather
feathers feature features feel feet feminine few figure filling find fine finish finished finishing
first fishnet fit fits fitted five fixed flannel flap flaps flared flat flatlock flattering fleece
flex flexible flip flops floral flounce flounced flounces flower flowers flowing fly foam fold
folded foldover follow foot football footless for form formal four frame frayed free freedom french
frequency fresh friday frill frilled frills fringe fringed fringes from front frozen full fully
functional fur further future galaxy garment garments gather gathered gathering gathers generous
gentle gently get gift girl girls give glass glasses glitter glittering glittery glossy glove
gloves go gold golden good graphic great green grey grip grosgrain guide gusset gym hair hairband
half halterneck hand handle handles hanging hard has hat hats have head headband heart heavy heel
heels height hem hems henley her here herringbone hidden high higher him hip hips his hold holdall
hole holes holiday home hood hooded hoodie hoodies hoodless hook hooks hoop hoops horizontal hot
house how human ideal if image imitation in inch inches included inner insert inserts inset inside
insole insoles insulated integral interlined interlock into invisible iron is it item items its
jacket jackets jacquard jean jeans jegging jeggings jersey jewellery jogger joggers jumper jumpers
jumpsuit jumpsuits just keep keyhole kick kids kimono kind knee knees knickers knit knits knitted
knitwear knot knotted lace laced laces lacing ladies lamb lapel lapels large laser last lasting
layer layered layers leather left leg leggings legs length lengths leopard less let level life
light lightly lightweight like line lined linen linens lines lingerie lining linings link links
little live loafers logo long longer longline look looks loop loops loose loosely loosen lot lounge
love low lower luxurious lyocell machine made main make man mandarin many mark marked marl
masculine mask match matching material materials maternity matt matte maxi may me measure medium
melange melting men mens merino mesh messenger metal metallic mid middle midi military mini mint
minute mittens mixed mock modal model modern moisture mom monday moss most motif motifs move
movement much multi muslin must my nail narrow natural navy near neat neck neckerchief necklace
necklaces neckline necklines need neon nepped net never new next nice night nightdress nightshirt
no non none normal not notch now number nursing nylon occasion of off office often old on once one
online only open opening openings option or orange order organic original other our out outdoor
outer outfit outsole outsoles over overall overalls overlapping overlay oversized own oxford pack
pad padded padding pads paint pair pairs pale panel panels pants paper parka part partially partly
parts party pastel patch patched patches patent pattern patterned patterns peak pearl pearls pencil
pendant people peplum perfect period photo photos picture pictures piece pieces pile pilled pin
pink pinstripe piping pique placed placement placket plaid plain plastic platform play playsuit
pleat pleated pleats plumeti plunge plus pocket pockets point pointed polka polo polyamide
polyester poncho ponytail poplin popover popper post practical premium press pretty price print
printed prints product products protect puff puffed puffer pull pullover pump pumps pure purple
purse push put pyjama pyjamas quality quarter quick quilted quilting racer racerback rack raglan
rain raised range rather raw rayon read ready real rear recycled red reflective reflectors regular
regulating reinforced relaxed removable repellent responsibly rhinestone rhinestones rib ribbed
ribbing ribbon rich ride right ring rings rip ripped rise robe rode roll rolled romper room rope
rose rough round rounded row rows rubber ruched ruffle ruffled ruffles run running rust safari sale
same sandal sandals sateen satin save scallop scalloped scarf scarves school scoop scuba sea seam
seamless seams season seasonal seat second section sections see seersucker self semi sequin
sequined sequins set sew sewn shade shades shaft shank shape shaped shapewear shaping shawl she
sheen sheer shell shimmering shimmery shine shiny shirred shirt shirts shoe shoes shop short
shorter shorts should shoulder shoulders show shown side sides sight sign signature silhouette
silicone silk silky silver simple since single size sizes skater skin skinny skirt skirts sky sleep
sleeve sleeved sleeveless sleeves slightly slim slip slipper slippers slit slits slope sloping
slouchy small smart smocked smocking smooth snap sneaker sneakers snood snow so sock socks soft
softly sold sole soles solid some something sophisticated spaghetti spandex sparkling sparkly
special sport sports spots spread spring square stand standing star stars start statement stay
steel step stiletto stitch stitched stitches stitching stone stones stopper storage store storm
straight strap strapless strappy straps stretch stretchy string stripe striped stripes strong
structure structured stud studded studs style styled styles stylish suede suit suits summer sun
sunday sunglasses suntop super supple support sure surface sustainable swaddle sweater sweaters
sweatpants sweatshirt sweatshirts sweet swim swimming swimsuit synthetic tab table tabs taffeta
tailored take tall tan tank taper tapered tapering tassel tassels teal technical teddy tee tees
tencel terry text texture textured than that the their them then there thermal these they thick
thigh thin thing this thong thread threaded threads three through thumbhole tie tied tier tiered
tiers ties tight tightly tights time times tip toe toes toggle toggles tone tones tongue too top
toppers tops total tote touch towel town track traditional trainer trainers transparent trapeze
travel trekking trench trend trendy trim trimmed trimmings trims trouser trousers true try tulle
tunic turn turned turquoise turtle turtleneck tweed twill twist twisted two type under underarm
undershirt underwear underwire underwired unisex unlined until up upper us use used useful utility
vamp variant various vegan velour velvet vent vented vents versatile vertical very vest vests
viewed vintage viscose visible visor volume waist waistband waistcoat waisted walk want warm was
wash washable washed washing watch water waterproof wave waves waxed way we wear wearing weather
weave wedge weekend weight welt were what when where which while white who whole why wicking wide
width wild will wind window windproof winter wipe wire wired wires with within without woman women
womens wonderful wood wooden wool word work worn would woven wrap wrapover wrapped wrinkle wrist
year years yellow yoke you young your zebra zip zipped zipper zips
"""
"""Common words of shop texts and of English, always whole in the vocabulary."""

ENDINGS = "##s ##es ##ed ##d ##ing ##er ##ers ##ly ##y ##al ##ion ##ment ##less ##ness ##able ##ful"
"""Endings that let an unknown word split where a reader would split it."""
