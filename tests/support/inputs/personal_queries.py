"""Queries with what tells of a person."""

# All made up, from the documentation of the formats, or reserved for examples.
PLANTED = {
    "email": """
        john.smith@example.com
        contact JOHN.SMITH@EXAMPLE.CO.UK now
        j_doe+news@mail.example.org photos
        mailto:anna@beispiel.de
        maria@correo.es foto
        用户@例子.中国
        иван@пример.рф
        jose@exämple.com
        ｊｏｈｎ＠ｅｘａｍｐｌｅ．ｃｏｍ
        john @ example.com
        john@ example . com
        john at example dot com
        john dot smith at mail dot example dot org
        john (at) example (dot) com
        john [at] example [dot] net
        john{at}example.com
        name(at)firma(punkt)de
        john at gmail.com
        john at gmail com
        john smith @gmail
        johnsmith@gmail
        mary_jane99@hotmail.com pictures
        "x y"@example.com
        resume of a.b@sub.domain.example.edu
        <info@example.fr>
        profile john.doe@example.io linkedin
        email me at bob@example.ru
    """,
    "url": """
        https://user:secret@example.com/private
        ftp://anonymous@ftp.example.com/file
        https://example.com/reset?token=abc123
        https://example.com/?access_token=xyzxyz&x=1
        example.com/login?user=bob&password=hunter2
        http://example.com/a?sid=9f8e7d
        https://example.com/cb?code=4/P7q7W91
        https://example.com/x#id_token=abcdef
        https://s3.example.com/a.png?x-amz-signature=deadbeef
        example.com/unsubscribe?email=bob%40example.com
        https://example.com/app?api_key=12345
        https://example.com/?phpsessid=abc&session=qwerty
        https://zoom.example.us/j/12345?pwd=qwerty
        https://example.com/invite?key=aaa111
    """,
    "secret": """
        https://docs.example.com/d/1a2b3c4d5e6f7g8h9i0jklm/edit
        https://example.com/share/9f86d081884c7d659a2feaa0c55ad015
        550e8400-e29b-41d4-a716-446655440000
        ghp_16c7e42f292c6912e7710c838347ae178b4a
        eyjhbgcioijiuzi1niisinr5cci6ikpxvcj9.eyjzdwiioiixmjm0nty3odkwin0
        bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq
        5f4dcc3b5aa765d61d8327deb882cf99
        sk_live_4ec39hq7lyjwdarjtt1zdp7dc00
    """,
    "iban": """
        GB82 WEST 1234 5698 7654 32
        gb82west12345698765432
        DE89370400440532013000
        DE89 3704 0044 0532 0130 00 konto
        FR14 2004 1010 0505 0001 3M02 606
        iban NL91 ABNA 0417 1643 00
        CH93 0076 2011 6238 5295 7
        ES91 2100 0418 4502 0005 1332
        PL61109010140000071219812874
        SE45 5000 0000 0583 9825 7466
        BR15 0000 0000 0000 1093 2840 814P 2
        it60x0542811101000000123456
    """,
    "national_id": """
        536-90-4399
        ssn 536 90 4399
        social security number 536904399
        046 454 286
        390.533.447-05
        390.533.447-05 cpf
        880320-0016
        19880320-0016
        211062-5629
        131052-308T
        971013-9019902
        2 95 10 99 126 111 93
        295109912611193
        85.07.30-033.28
        756.9217.0769.85
        12531909-2
        12.531.909-2
        20-05536168-2
        BOXW310820HNERXN09
        54362315K
        54362315-k dni
        X-2482300-W
        RCCMNL83S18D969H
        QQ123456C
        AB 12 34 56 C
        943-476-5919
        6433435F
        2341 2341 2346
        2341-2341-2346
        ACUPA7085R
        11010519491231002X
        360426199101010071
        112-233-445 95
        710319/2745
        770305-02-1234
        1-2345-45678-78-1
        34201-0891231-8
    """,
    "card": """
        4111 1111 1111 1111
        4111-1111-1111-1111
        4111111111111111
        visa 4111.1111.1111.1111
        4111 1111 1111 1111 12/27 123
        card 5555 5555 5555 4444 exp 12/27
        5555-5555-5555-4444
        3782 822463 10005
        3782-822463-10005
        378282246310005
        3056 930902 5904
        6011 1111 1111 1117
        3530 1113 3330 0000
        2223 0031 2200 3222
        ４１１１　１１１１　１１１１　１１１１
        ٤١١١ ١١١١ ١١١١ ١١١١
        4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1
        4111_1111_1111_1111
        41111111 11111111
        5105 1051 0510 5100 mastercard
    """,
    "phone": """
        +1 212 555 0123
        +12125550123
        +1 (212) 555-0123
        (212) 555-0123
        212-555-0123
        212.555.0123
        212 555 0123
        1-800-555-0199
        2125550123
        call 212 555 0123 now
        who owns 212-555-0123
        +44 20 7946 0958
        +44 7700 900123
        020 7946 0958
        07700 900123
        07700900123
        +49 30 1234567
        +49 151 23456789
        030 1234567 berlin
        0151 23456789
        0151/23456789
        0049 30 1234567
        +33 1 23 45 67 89
        +33612345678
        01 99 00 12 34
        06.12.34.56.78
        06-12-34-56-78
        +34 612 345 678
        612 345 678
        612 34 56 78
        +39 333 123 4567
        333 1234567
        +31 6 12345678
        06-12345678
        +48 512 345 678
        +351 912 345 678
        +7 912 345-67-89
        8 (912) 345-67-89
        912 345 67 89
        +380 44 123 4567
        +90 532 123 45 67
        0532 123 45 67
        +91 98765 43210
        98765 43210
        +86 138 1234 5678
        138 1234 5678
        13812345678
        +81 90-1234-5678
        090-1234-5678
        03-1234-5678
        +82 10-1234-5678
        010-1234-5678
        +65 6123 4567
        +852 2123 4567
        +61 412 345 678
        0412 345 678
        (02) 9123 4567
        +64 21 123 456
        +55 11 91234-5678
        (11) 91234-5678
        +52 55 1234 5678
        55 1234 5678
        +54 9 11 1234-5678
        +27 82 123 4567
        082 123 4567
        +234 803 123 4567
        +20 100 123 4567
        +966 50 123 4567
        ٠٥٠ ١٢٣ ٤٥٦٧
        +971 50 123 4567
        tel 5551234
        tel: 555-1234
        phone number 555 1234
        電話 1234-5678
        тел. 123-45-67
        wa.me/4915112345678
        ＋８１ ９０ １２３４ ５６７８
        whatsapp 98 76 54 32
        3605551234 caller
        00 33 6 12 34 56 78
        01 23 45 67 89
        08-12 34 56
        21 234 5678
        12 345 67 89
        8 (301) 123-45-67
        212 345 678
        010-2000-0000
        (0-612) 34567
        91 234 56 78
        tel 98·76·54·32
    """,
}


PLANTED = {
    kind: [line.strip() for line in text.strip().split("\n")] for kind, text in PLANTED.items()
}
