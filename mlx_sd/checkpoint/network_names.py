"""Names of networks that stand beside any model, and of their files in the cache."""

JSON = "network.json"  # says what a folder of one network holds
NETWORKS = "networks"  # the folder of such folders inside the cache
T2I_ADAPTER = "t2i_adapter"  # of the folder of a T2I-Adapter
IP_ADAPTER, IMAGE_ENCODER = "ip_adapter", "image_encoder"  # of the folders of an IP-Adapter and its image encoder
