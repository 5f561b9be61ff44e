"""What people call things, in five languages and four scripts; Chinese has no spaces.

A noun is written `word|gender` (f or n; masculine when nothing is said); colours and sizes
hold one form per gender, in the order m, f, n.
"""

import dataclasses

THEMES = {
    "nature": ("tree", "flower", "mushroom"),
    "sea": ("fish", "boat"),
    "sky": ("star", "crescent", "lightning"),
    "geometry": ("circle", "square", "triangle", "ring"),
    "signs": ("cross", "arrow"),
    "love": ("heart",),
    "home": ("house",),
}
THEME_OF = {shape: theme for theme, shapes in THEMES.items() for shape in shapes}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """One language.

    Attributes:
      share: of the people who search in it.
      order: how size, colour and noun make a phrase.
      nouns: shape → names, the usual one first, separated by commas.
      colours: colour → its forms, by gender.
      sizes: size → its forms, by gender.
      backgrounds: background → template for the phrase before it.
      pair: template for two nouns.
      themes: theme → word.
      media: templates for those who say what kind of picture they want.
    """

    share: float
    order: str
    nouns: dict[str, str]
    colours: dict[str, str]
    sizes: dict[str, str]
    backgrounds: dict[str, str]
    pair: str
    themes: dict[str, str]
    media: tuple[str, ...]

    def names(self, shape: str) -> list[str]:
        """Every name of a shape, without its gender."""
        return [name.split("|")[0] for name in self.nouns[shape].split(",")]


ENGLISH = Vocabulary(
    share=0.46,
    order="{size} {colour} {noun}",
    nouns={
        "circle": "circle,disc",
        "square": "square,box",
        "triangle": "triangle",
        "star": "star,five pointed star",
        "heart": "heart,love heart",
        "crescent": "moon,crescent",
        "cross": "cross,plus sign",
        "ring": "ring,hoop",
        "arrow": "arrow,pointer",
        "tree": "tree,pine tree",
        "house": "house,cottage",
        "fish": "fish,goldfish",
        "flower": "flower,blossom",
        "boat": "boat,sailboat",
        "mushroom": "mushroom,toadstool",
        "lightning": "lightning,thunderbolt",
    },
    colours={
        "red": "red",
        "orange": "orange",
        "yellow": "yellow",
        "green": "green",
        "blue": "blue",
        "purple": "purple",
        "white": "white",
        "black": "black",
    },
    sizes={"big": "big", "small": "small"},
    backgrounds={
        "plain": "{} on plain background",
        "gradient": "{} gradient",
        "stripes": "{} with stripes",
        "noise": "{} on mosaic",
    },
    pair="{} and {}",
    themes={
        "nature": "nature",
        "sea": "sea",
        "sky": "sky",
        "geometry": "geometric shape",
        "signs": "sign",
        "love": "valentine",
        "home": "home",
    },
    media=("{} icon", "{} clipart", "{} drawing", "free {} picture"),
)

SPANISH = Vocabulary(
    share=0.2,
    order="{noun} {colour} {size}",
    nouns={
        "circle": "círculo,disco",
        "square": "cuadrado",
        "triangle": "triángulo",
        "star": "estrella|f",
        "heart": "corazón",
        "crescent": "luna|f,media luna|f",
        "cross": "cruz|f",
        "ring": "anillo,aro",
        "arrow": "flecha|f",
        "tree": "árbol,pino",
        "house": "casa|f,casita|f",
        "fish": "pez,pescado",
        "flower": "flor|f",
        "boat": "barco,velero",
        "mushroom": "seta|f,hongo",
        "lightning": "rayo,relámpago",
    },
    colours={
        "red": "rojo,roja",
        "orange": "naranja,naranja",
        "yellow": "amarillo,amarilla",
        "green": "verde,verde",
        "blue": "azul,azul",
        "purple": "morado,morada",
        "white": "blanco,blanca",
        "black": "negro,negra",
    },
    sizes={"big": "grande,grande", "small": "pequeño,pequeña"},
    backgrounds={
        "plain": "{} fondo liso",
        "gradient": "{} degradado",
        "stripes": "{} con rayas",
        "noise": "{} sobre mosaico",
    },
    pair="{} y {}",
    themes={
        "nature": "naturaleza",
        "sea": "mar",
        "sky": "cielo",
        "geometry": "figura geométrica",
        "signs": "señal",
        "love": "san valentín",
        "home": "hogar",
    },
    media=("icono de {}", "dibujo de {}", "imagen {}"),
)

RUSSIAN = Vocabulary(
    share=0.13,
    order="{size} {colour} {noun}",
    nouns={
        "circle": "круг,кружок",
        "square": "квадрат",
        "triangle": "треугольник",
        "star": "звезда|f,звёздочка|f",
        "heart": "сердце|n,сердечко|n",
        "crescent": "луна|f,полумесяц",
        "cross": "крест,плюс",
        "ring": "кольцо|n,обруч",
        "arrow": "стрелка|f,стрела|f",
        "tree": "дерево|n,ёлка|f",
        "house": "дом,домик",
        "fish": "рыба|f,рыбка|f",
        "flower": "цветок",
        "boat": "лодка|f,парусник",
        "mushroom": "гриб,мухомор",
        "lightning": "молния|f",
    },
    colours={
        "red": "красный,красная,красное",
        "orange": "оранжевый,оранжевая,оранжевое",
        "yellow": "жёлтый,жёлтая,жёлтое",
        "green": "зелёный,зелёная,зелёное",
        "blue": "синий,синяя,синее",
        "purple": "фиолетовый,фиолетовая,фиолетовое",
        "white": "белый,белая,белое",
        "black": "чёрный,чёрная,чёрное",
    },
    sizes={"big": "большой,большая,большое", "small": "маленький,маленькая,маленькое"},
    backgrounds={
        "plain": "{} на ровном фоне",
        "gradient": "{} градиент",
        "stripes": "{} в полоску",
        "noise": "{} мозаика",
    },
    pair="{} и {}",
    themes={
        "nature": "природа",
        "sea": "море",
        "sky": "небо",
        "geometry": "фигура",
        "signs": "знак",
        "love": "любовь",
        "home": "жильё",
    },
    media=("{} картинка", "{} рисунок", "{} иконка"),
)

CHINESE = Vocabulary(
    share=0.12,
    order="{size}{colour}{noun}",
    nouns={
        "circle": "圆形,圆圈",
        "square": "正方形,方块",
        "triangle": "三角形,三角",
        "star": "星星,五角星",
        "heart": "爱心,心形",
        "crescent": "月亮,月牙",
        "cross": "十字,加号",
        "ring": "圆环,戒指",
        "arrow": "箭头",
        "tree": "树木,松树",
        "house": "房子,小屋",
        "fish": "小鱼,金鱼",
        "flower": "花朵,鲜花",
        "boat": "帆船,小船",
        "mushroom": "蘑菇",
        "lightning": "闪电,雷电",
    },
    colours={
        "red": "红色",
        "orange": "橙色",
        "yellow": "黄色",
        "green": "绿色",
        "blue": "蓝色",
        "purple": "紫色",
        "white": "白色",
        "black": "黑色",
    },
    sizes={"big": "大", "small": "小"},
    backgrounds={
        "plain": "纯色背景{}",
        "gradient": "渐变{}",
        "stripes": "条纹{}",
        "noise": "马赛克{}",
    },
    pair="{}和{}",
    themes={
        "nature": "大自然",
        "sea": "海洋",
        "sky": "天空",
        "geometry": "几何图形",
        "signs": "标志",
        "love": "情人节",
        "home": "家园",
    },
    media=("{}图片", "{}简笔画", "{}图标"),
)

ARABIC = Vocabulary(
    share=0.09,
    order="{noun} {colour} {size}",
    nouns={
        "circle": "دائرة|f",
        "square": "مربع",
        "triangle": "مثلث",
        "star": "نجمة|f",
        "heart": "قلب",
        "crescent": "هلال,قمر",
        "cross": "صليب",
        "ring": "حلقة|f,خاتم",
        "arrow": "سهم",
        "tree": "شجرة|f",
        "house": "بيت,منزل",
        "fish": "سمكة|f",
        "flower": "زهرة|f,وردة|f",
        "boat": "قارب,مركب",
        "mushroom": "فطر",
        "lightning": "برق,صاعقة|f",
    },
    colours={
        "red": "أحمر,حمراء",
        "orange": "برتقالي,برتقالية",
        "yellow": "أصفر,صفراء",
        "green": "أخضر,خضراء",
        "blue": "أزرق,زرقاء",
        "purple": "بنفسجي,بنفسجية",
        "white": "أبيض,بيضاء",
        "black": "أسود,سوداء",
    },
    sizes={"big": "كبير,كبيرة", "small": "صغير,صغيرة"},
    backgrounds={
        "plain": "{} خلفية سادة",
        "gradient": "{} تدرج",
        "stripes": "{} مع خطوط",
        "noise": "{} فسيفساء",
    },
    pair="{} و {}",
    themes={
        "nature": "طبيعة",
        "sea": "بحر",
        "sky": "سماء",
        "geometry": "شكل هندسي",
        "signs": "علامة",
        "love": "عيد الحب",
        "home": "مسكن",
    },
    media=("صورة {}", "رسم {}"),
)

LANGUAGES = {"en": ENGLISH, "es": SPANISH, "ru": RUSSIAN, "zh": CHINESE, "ar": ARABIC}
