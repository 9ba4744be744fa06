import java.nio.file.Path;
import java.time.Duration;
import org.neo4j.configuration.GraphDatabaseSettings;
import org.neo4j.configuration.connectors.BoltConnector;
import org.neo4j.configuration.connectors.BoltConnectorInternalSettings;
import org.neo4j.configuration.connectors.ConnectorPortRegister;
import org.neo4j.configuration.connectors.ConnectorType;
import org.neo4j.configuration.helpers.SocketAddress;
import org.neo4j.dbms.api.DatabaseManagementServiceBuilder;
import org.neo4j.io.ByteUnit;
import org.neo4j.kernel.internal.GraphDatabaseAPI;

/** A Neo4j that speaks Bolt and nothing else: {@code Neo4jServer HOST PORT FOLDER}; port 0 takes a free one. */
public final class Neo4jServer {
    public static void main(String[] args) throws Exception {
        var host = args[0];
        var folder = Path.of(args[2]);
        var service = new DatabaseManagementServiceBuilder(folder)
                // By name: settings that only some versions have.
                .loadPropertiesFromFile(folder.resolve("neo4j.conf"))
                .setConfig(BoltConnector.enabled, true)
                .setConfig(BoltConnector.listen_address, new SocketAddress(host, Integer.parseInt(args[1])))
                .setConfig(GraphDatabaseSettings.auth_enabled, false)
                // The default reports usage to the vendor.
                .setConfig(GraphDatabaseSettings.udc_enabled, false)
                // The default is half of the machine's memory.
                .setConfig(GraphDatabaseSettings.pagecache_memory, ByteUnit.mebiBytes(64))
                // The databases are closed by then; the default only idles for twice five seconds.
                .setConfig(BoltConnectorInternalSettings.thread_pool_shutdown_wait_time, Duration.ZERO)
                .build();
        Runtime.getRuntime().addShutdownHook(new Thread(service::shutdown));

        var database = (GraphDatabaseAPI) service.database("neo4j");
        var ports = database.getDependencyResolver().resolveDependency(ConnectorPortRegister.class);
        System.out.println("READY bolt://" + host + ":" + ports.getLocalAddress(ConnectorType.BOLT).getPort());

        // End of input means that whoever started this server is gone, however it went.
        while (System.in.read() >= 0) {}
        System.exit(0);
    }
}
