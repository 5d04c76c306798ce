"""Keep bytes under keys in a folder or a bucket: content that never changes, and small pointers moved by compare-and-set.

In come an address (a path, ``file:///path``, ``s3://bucket/prefix`` or ``gs://bucket/prefix``), keys and bytes; a bucket's credentials and
endpoint come from the variables that its own tools use (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``).
Out go the same bytes, whole or not at all, to every process that opens the address.
"""

from streamrec.storage.address import is_folder, open_storage
from streamrec.storage.base import Storage, Token
from streamrec.storage.bucket import ObjectStorage
from streamrec.storage.content import BlobRef, Blobs
from streamrec.storage.local import LocalStorage, tidy

__all__ = ["BlobRef", "Blobs", "LocalStorage", "ObjectStorage", "Storage", "Token", "is_folder", "open_storage", "tidy"]
