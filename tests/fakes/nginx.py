"""A real nginx as a load balancer: one location for each tenant, balancing over its pods. Everything is in one folder."""

from collections.abc import Iterable, Mapping
from pathlib import Path

_CONF = """\
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_connect_timeout 3s;
    proxy_next_upstream off;
{upstreams}
    server {{
        listen 0.0.0.0:{port};
{locations}
    }}
}}
"""


def write_conf(folder: Path, port: int, pods: Mapping[str, Iterable[str]]) -> Path:
    """nginx.conf(5): `pods` maps a tenant to HOST:PORT of its pods; /TENANT/ is balanced over them, one after the other."""
    upstreams = "\n".join(
        f"    upstream {tenant} {{ {' '.join(f'server {pod} max_fails=0;' for pod in addresses)} }}"
        for tenant, addresses in pods.items()
    )
    locations = "\n".join(
        f"        location /{tenant}/ {{ proxy_pass http://{tenant}/; }}" for tenant in pods
    )
    conf = folder / "nginx.conf"
    conf.write_text(_CONF.format(folder=folder, port=port, upstreams=upstreams, locations=locations))
    return conf
